"""The parent of one job on a Ray cluster: the entry point of its Ray job.

``python -m trainkit.runners.rayjob ROOT JOB_ID PYTHON`` runs where Ray puts it, over the same files; PYTHON is the
version of who submitted the job.  It does what the supervisor of a local job does, and starts Ray Train where
that starts a worker.
"""

from __future__ import annotations

import contextlib
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

from trainkit.errors import StateError, UnknownJobError
from trainkit.files.endings import Ending
from trainkit.files.locks import FileLock, try_lock
from trainkit.files.owners import this_process
from trainkit.files.paths import JobPaths
from trainkit.files.record import EndedBy, ErrorInfo, Resources, Status
from trainkit.files.recorder import Recorder
from trainkit.files.store import Handle, Store
from trainkit.ranks.ends import rank_ends, tell_rank_end
from trainkit.runners.lifetime import Started, asked_for, see_through
from trainkit.runners.orphans import adopt_orphans
from trainkit.runners.process import kill_session

#: How long who submitted the job may take to let go of its files.
HAND_OVER_S = 60.0
#: How often requests are looked at, in seconds.
LISTEN_S = 0.2


def main(arguments: list[str]) -> None:
    """Be the parent of one job."""
    root, job_id, python = arguments
    if not Path(root).is_dir():
        sys.exit(
            f"{root} is not there on {platform.node()}: the folder of the jobs has to be on a file system that "
            "the notebook and all machines of the cluster share, under the same path"
        )
    adopt_orphans()
    store = Store(root)
    lock = _owner_lock(store, job_id)
    record = store.read(job_id)
    me = this_process()
    record.pid, record.process_started_at, record.boot_id, record.host = me.pid, me.started_at, me.boot_id, me.host
    handle = store.handle(job_id) or Handle(runner="ray")
    handle.processes = [me]
    store.write_handle(job_id, handle)
    recorder = Recorder(store, record, requests_offset=handle.requests_offset)
    here = ".".join(platform.python_version_tuple()[:2])
    if here != python:
        recorder.close(
            Ending(
                Status.FAILED,
                EndedBy.EXCEPTION,
                f"the notebook runs Python {python}, the cluster {here}: a function cannot travel between them. "
                "Use the same on both",
            )
        )
        return
    recorder.note(message=f"waiting for the cluster to have room for {_in_words(record.resources)}")
    recorder.write_now()
    recorder.detach()

    def start() -> Started:
        # From notes of an attempt before Ray Train would go on by itself; they are no business of it.
        shutil.rmtree(notes, ignore_errors=True)
        group = subprocess.Popen(
            [sys.executable, "-m", "trainkit.runners.raygroup", root, job_id],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        return Started(group.pid, lambda: _listen(store, job_id, handle, group))

    notes = notes_of(store.paths(job_id))
    see_through(store, record, handle, start, at_once=True)
    shutil.rmtree(notes, ignore_errors=True)
    lock.release()


def notes_of(paths: JobPaths) -> Path:
    """Return the folder for what Ray Train notes of an attempt; it insists on one that all machines see."""
    return paths.folder / "ray"


def _in_words(wanted: Resources) -> str:
    """Say what a cluster has to have room for.

    >>> _in_words(Resources(ranks=2, gpus_per_rank=1))
    '2 ranks with 1 GPU each'
    """
    ranks = f"{wanted.ranks} rank{'s' if wanted.ranks > 1 else ''}"
    gpus = f" with {wanted.gpus_per_rank} GPU{'s' if wanted.gpus_per_rank > 1 else ''}"
    return ranks + (gpus + (" each" if wanted.ranks > 1 else "") if wanted.gpus_per_rank else "")


def _listen(store: Store, job_id: str, handle: Handle, group: subprocess.Popen[bytes]) -> int:
    """Wait for what runs the job, and kill it when that is asked for: nobody else can, from where people are.

    Nobody else hears either that a job should stop which the cluster has no room for.
    """
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = group.wait(LISTEN_S)
            break
        record = store.read(job_id)
        asked = asked_for(store, record, handle.requests_offset)
        if "kill" in asked or (asked & {"stop", "finish"} and record.status is Status.QUEUED):
            kill_session(group.pid)
    with contextlib.suppress(UnknownJobError):  # deleted as soon as its end was written
        if code > 0 and not store.read(job_id).status.terminal:
            _tell_of_ray(store.paths(job_id), handle, code)
    return code


def _tell_of_ray(paths: JobPaths, handle: Handle, code: int) -> None:
    """Write down that Ray ended the job, unless a rank knows better."""
    if not rank_ends(paths):
        where = f"`ray job logs {handle.detail.get('submission_id')}` tells what it said"
        told = ErrorInfo("ProcessExit", f"Ray ended its ranks, or never started them (exit code {code}); {where}")
        tell_rank_end(paths, 0, told, lost=True)


def _owner_lock(store: Store, job_id: str) -> FileLock:
    give_up_at = time.monotonic() + HAND_OVER_S
    while (lock := try_lock(store.paths(job_id).owner_lock)) is None:
        if time.monotonic() > give_up_at:
            raise StateError(f"job {job_id!r} is owned by somebody else")
        time.sleep(0.05)
    try:
        status = store.read(job_id).status
    except UnknownJobError:
        status = Status.STOPPED
    if status.terminal:
        sys.exit(f"job {job_id!r} is over already")
    return lock


if __name__ == "__main__":
    main(sys.argv[1:])
