"""The parent of one process job: waits its turn, starts the worker, and tells how it ended.

Small, without torch, in a session of its own.  ``python -m trainkit.runners.supervisor ROOT JOB_ID LOCK_FD
TICKET_FD TICKET_PATH`` is started by the process runner.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from trainkit.endings import Ending, cause_of_death
from trainkit.errors import StoreError, UnknownJobError
from trainkit.locks import FileLock
from trainkit.orphans import adopt_orphans
from trainkit.owners import process, this_process
from trainkit.rankends import cause_of_end, forget_rank_ends, rank_ends
from trainkit.record import EndedBy, Record, Status, begin_restart
from trainkit.recorder import Recorder
from trainkit.runners.process import LARGE_TASK_BYTES, kill_descendants, kill_session
from trainkit.runners.queueing import wait_in_queue
from trainkit.slots import Ticket
from trainkit.store import Handle, Store


def main(arguments: list[str]) -> None:
    """Be the supervisor of one job."""
    root, job_id, lock_fd, ticket_fd, ticket_path = arguments
    store = Store(root)
    lock = FileLock.inherited(int(lock_fd), store.paths(job_id).owner_lock)
    ticket = Ticket.inherited(int(ticket_fd), Path(ticket_path))
    adopt_orphans()
    supervise(store, store.read(job_id), lock, ticket)
    ticket.close()
    lock.release()


def supervise(store: Store, record: Record, lock: FileLock, ticket: Ticket) -> None:
    """Bring a queued job to its terminal state."""
    me = this_process()
    record.pid, record.process_started_at, record.boot_id, record.host = (
        me.pid,
        me.started_at,
        me.boot_id,
        me.host,
    )
    handle = store.handle(record.job_id) or Handle(runner="process")
    handle.processes = [me]
    store.write_handle(record.job_id, handle)
    store.write_record(record, durable=True)
    recorder = Recorder(store, record, requests_offset=handle.requests_offset)
    task_bytes = store.paths(record.job_id).task.stat().st_size
    if task_bytes > LARGE_TASK_BYTES:
        recorder.warn(
            f"the function and all it mentions took {task_bytes / 1e6:,.0f} MB to send; "
            "load large data inside the function instead"
        )
    if not wait_in_queue(recorder, ticket):
        return
    recorder.detach()
    told_to_end = threading.Event()
    while True:
        forget_rank_ends(store.paths(record.job_id))
        worker = subprocess.Popen(
            _command(store, record, lock, ticket),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=(lock.fd, ticket.fd),
        )
        signal.signal(signal.SIGTERM, _pass_on_to(worker, told_to_end))
        handle.processes = [me, process(worker.pid)]
        store.write_handle(record.job_id, handle)
        code = worker.wait()
        kill_session(worker.pid)
        kill_descendants(me.pid)
        try:
            found = store.read(record.job_id)
        except UnknownJobError:
            return  # deleted as soon as its end was written
        if found.status.terminal or found.attempt != record.attempt:
            return  # it told its end, and may be resumed since
        record = found
        if told_to_end.is_set() or not may_restart(store, record, requests_offset=handle.requests_offset):
            bury(store, record, code, requests_offset=handle.requests_offset)
            return
        restart(store, record, code)


def _command(store: Store, record: Record, lock: FileLock, ticket: Ticket) -> list[str]:
    """What runs a job here: one worker, or torchrun's agent with several."""
    held = map(str, (lock.fd, ticket.fd))
    if record.resources.ranks == 1:
        return [sys.executable, "-m", "trainkit.worker", str(store.root), record.job_id, *held]
    ranks = str(record.resources.ranks)
    return [sys.executable, "-m", "trainkit.runners.torchrun", str(store.root), record.job_id, ranks, *held]


def may_restart(store: Store, record: Record, *, requests_offset: int) -> bool:
    """Whether a job whose processes have ended without a word may begin again from its checkpoint.

    A rank that raised is no accident and would raise again; who was asked to end ends.
    """
    if record.restarts >= record.resources.retries:
        return False
    requests, _ = store.requests(record.job_id, requests_offset)
    asked = any(request.get("action") in ("stop", "finish", "kill") for request in requests)
    return not asked and all(end.lost for end in rank_ends(store.paths(record.job_id)))


def restart(store: Store, record: Record, code: int) -> None:
    """Write down that a job begins again, and why."""
    store.sweep(record.job_id)
    cause = cause_of_end(rank_ends(store.paths(record.job_id))) or cause_of_death(code)
    begin_restart(record, now=time.time())
    again = "from its checkpoint" if record.resumable else "from its beginning"
    record.message = f"restart {record.restarts} of {record.resources.retries}, {again}: {cause.message}"
    recorder = Recorder(store, record)
    recorder.event("restart", message=record.message, restarts=record.restarts)
    recorder.detach()
    store.write_record(record, durable=True)


def bury(store: Store, record: Record, code: int, *, requests_offset: int = 0) -> None:
    """Write the terminal state of a worker that could not do it itself.

    Args:
        store: where the files are.
        record: as the worker left it.
        code: its exit code, or the negative number of the signal that ended it.
        requests_offset: where the requests of its attempt begin.
    """
    if record.status.terminal:
        return
    store.sweep(record.job_id)
    recorder = Recorder(store, record, requests_offset=requests_offset)
    killed = False
    with contextlib.suppress(StoreError):  # where nobody can tell what was asked, the death is told as any other
        killed = recorder.requested("kill")
    if killed:
        recorder.close(Ending(Status.STOPPED, EndedBy.USER, "killed on request"))
    else:
        recorder.close(cause_of_end(rank_ends(store.paths(record.job_id))) or cause_of_death(code))


def _pass_on_to(worker: subprocess.Popen[bytes], told_to_end: threading.Event) -> Any:
    def pass_on(number: int, frame: FrameType | None) -> None:
        told_to_end.set()
        os.killpg(worker.pid, number)

    return pass_on


if __name__ == "__main__":
    main(sys.argv[1:])
