"""The parent of one process job: waits its turn, starts the worker, and tells how it ended.

Small, without torch, in a session of its own.  ``python -m trainkit.runners.supervisor ROOT JOB_ID LOCK_FD
TICKET_FD TICKET_PATH`` is started by the process runner.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from trainkit.endings import Ending, cause_of_death
from trainkit.errors import StoreError, UnknownJobError
from trainkit.locks import FileLock
from trainkit.owners import process, this_process
from trainkit.record import EndedBy, Record, Status
from trainkit.recorder import Recorder
from trainkit.runners.process import LARGE_TASK_BYTES, kill_descendants, kill_session
from trainkit.runners.queueing import wait_in_queue
from trainkit.slots import Ticket
from trainkit.store import Handle, Store

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


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
    worker = subprocess.Popen(
        [sys.executable, "-m", "trainkit.worker", str(store.root), record.job_id, *map(str, (lock.fd, ticket.fd))],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        pass_fds=(lock.fd, ticket.fd),
    )
    signal.signal(signal.SIGTERM, _pass_on_to(worker))
    handle.processes.append(process(worker.pid))
    store.write_handle(record.job_id, handle)
    code = worker.wait()
    kill_session(worker.pid)
    kill_descendants(me.pid)
    with contextlib.suppress(UnknownJobError):  # deleted as soon as its end was written
        found = store.read(record.job_id)
        if found.attempt == record.attempt:  # else resumed as soon as that
            bury(store, found, code, requests_offset=handle.requests_offset)


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
        recorder.close(cause_of_death(code))


def adopt_orphans() -> None:
    """Make processes that the worker leaves behind children of this one, so that they can be found and ended."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def _pass_on_to(worker: subprocess.Popen[bytes]) -> Any:
    def pass_on(number: int, frame: FrameType | None) -> None:
        os.killpg(worker.pid, number)

    return pass_on


if __name__ == "__main__":
    main(sys.argv[1:])
