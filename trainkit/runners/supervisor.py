"""The parent of one process job: waits its turn, hands it to its worker, and tells how it ended.

Small, without torch, in a session of its own; :mod:`trainkit.runners.starter` is how it begins.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import FrameType

from trainkit.errors import TrainkitError
from trainkit.files.locks import FileLock
from trainkit.files.owners import this_process
from trainkit.files.recorder import Recorder
from trainkit.files.store import Handle, Store
from trainkit.runners.handover import Errand, receive, send
from trainkit.runners.lifetime import Started, see_through
from trainkit.runners.orphans import adopt_orphans
from trainkit.runners.process import LARGE_TASK_BYTES, kill_descendants, kill_session
from trainkit.runners.queueing import RESTORE_S, QueuedJob, wait_in_queue
from trainkit.runners.slots import Ticket
from trainkit.runners.spare import KEPT_S, answer
from trainkit.runners.starter import Worker, start_worker


def serve(connection: socket.socket, worker: Worker | None, *, spare: bool) -> None:
    """Be the supervisor of the job that comes over a connection; end if none comes.

    Args:
        connection: to the process that submits jobs.
        worker: a process that waits for its job already.
        spare: whether there may never be a job.
    """
    adopt_orphans()
    errand = receive(connection) if not spare or _is_wanted(connection, worker) else None
    connection.close()
    if errand is None:
        if worker is not None:
            kill_session(worker.pid)
            os.waitpid(worker.pid, 0)
        return
    errand.take_output()
    store = Store(errand.root)
    lock = FileLock.inherited(errand.lock_fd, store.paths(errand.job_id).owner_lock)
    ticket = Ticket.inherited(errand.ticket_fd, Path(errand.ticket_path))
    try:
        supervise(store, errand, ticket, worker)
    except Exception as error:  # the disk is full, say
        kill_descendants(os.getpid())
        with contextlib.suppress(TrainkitError):  # it is gone, or nobody can read it: there is nothing to tell in
            store.tell_failure(store.read(errand.job_id), error)
        raise
    signal.setitimer(signal.ITIMER_REAL, 0)
    ticket.close()
    lock.release()


def _is_wanted(connection: socket.socket, worker: Worker | None) -> bool:
    """Wait until a job is on its way, or the sender, the worker or the patience has gone."""
    waits_for = [connection, *([worker.connection] if worker else [])]
    ready, _, _ = select.select(waits_for, [], [], KEPT_S)
    return ready == [connection] and answer(connection)


def supervise(store: Store, errand: Errand, ticket: Ticket, worker: Worker | None) -> None:
    """Bring a queued job to its terminal state."""
    me = this_process()
    record = store.read(errand.job_id)
    handle = store.handle(record.job_id) or Handle(runner="process")
    handle.processes = [me]
    if (task_bytes := store.paths(record.job_id).task.stat().st_size) > LARGE_TASK_BYTES:
        recorder = Recorder(store, record, requests_offset=handle.requests_offset)
        recorder.warn(
            f"the function and all it mentions took {task_bytes / 1e6:,.0f} MB to send; "
            "load large data inside the function instead"
        )
        recorder.detach()
    if worker is None:
        record.pid, record.process_started_at, record.boot_id, record.host = (
            me.pid,
            me.started_at,
            me.boot_id,
            me.host,
        )
        store.write_handle(record.job_id, handle)
        store.write_record(record, durable=True)
        if not wait_in_queue(QueuedJob(store, record, ticket, requests_offset=handle.requests_offset)):
            return
    _look_after(ticket)
    ready = [worker] if worker is not None else []

    def start() -> Started:
        if record.resources.ranks > 1:
            agent = _torchrun(errand, record.resources.ranks)
            return Started(agent.pid, agent.wait)
        own = ready.pop() if ready else start_worker()

        def begin() -> None:
            with contextlib.suppress(OSError), own.connection:  # if it has died meanwhile, its exit code tells
                send(own.connection, errand)

        return Started(own.pid, own.wait, begin)

    see_through(store, record, handle, start)


def _look_after(ticket: Ticket) -> None:
    """Make the ticket again whenever it is removed, from here on until the timer is stopped."""

    def restore(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(Exception):  # the job runs on; a second later it is tried again
            ticket.restore()

    # A timer and no thread: this process forks.
    signal.signal(signal.SIGALRM, restore)
    signal.setitimer(signal.ITIMER_REAL, RESTORE_S, RESTORE_S)


def _torchrun(errand: Errand, ranks: int) -> subprocess.Popen[bytes]:
    """Start torchrun's agent, for a job of several workers."""
    held = (errand.lock_fd, errand.ticket_fd)
    words = ["-m", "trainkit.runners.torchrun", errand.root, errand.job_id, str(ranks), *map(str, held)]
    return subprocess.Popen(
        [sys.executable, *words], stdin=subprocess.DEVNULL, start_new_session=True, pass_fds=held
    )
