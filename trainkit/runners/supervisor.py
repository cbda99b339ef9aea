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
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from trainkit.endings import Ending, cause_of_death
from trainkit.errors import StoreError, UnknownJobError
from trainkit.handover import Errand, receive, send
from trainkit.locks import FileLock
from trainkit.orphans import adopt_orphans
from trainkit.owners import process, this_process
from trainkit.rankends import cause_of_end, forget_rank_ends, rank_ends
from trainkit.record import EndedBy, Record, Status, begin_restart
from trainkit.recorder import Recorder
from trainkit.runners.process import LARGE_TASK_BYTES, kill_descendants, kill_session
from trainkit.runners.queueing import wait_in_queue
from trainkit.runners.spare import KEPT_S, answer
from trainkit.runners.starter import Worker, start_worker
from trainkit.slots import Ticket
from trainkit.store import Handle, Store


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
    supervise(store, errand, ticket, worker)
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
        recorder = Recorder(store, record, requests_offset=handle.requests_offset)
        if not wait_in_queue(recorder, ticket):
            return
        recorder.detach()
    told_to_end = threading.Event()
    while True:
        forget_rank_ends(store.paths(record.job_id))
        wait: Callable[[], int]
        if record.resources.ranks > 1:
            agent = _torchrun(errand, record.resources.ranks)
            pid, wait = agent.pid, agent.wait
        else:
            worker = worker or start_worker()
            pid, wait = worker.pid, worker.wait
        signal.signal(signal.SIGTERM, _pass_on_to(pid, told_to_end))
        # Before the job begins: once it has ended, it may be resumed, and the handle is another attempt's.
        handle.processes = [me, process(pid)]
        store.write_handle(record.job_id, handle)
        if worker is not None:
            with contextlib.suppress(OSError), worker.connection:  # if it has died meanwhile, its exit code tells
                send(worker.connection, errand)
            worker = None
        code = wait()
        kill_session(pid)
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


def _torchrun(errand: Errand, ranks: int) -> subprocess.Popen[bytes]:
    """Start torchrun's agent, for a job of several workers."""
    held = (errand.lock_fd, errand.ticket_fd)
    words = ["-m", "trainkit.runners.torchrun", errand.root, errand.job_id, str(ranks), *map(str, held)]
    return subprocess.Popen(
        [sys.executable, *words], stdin=subprocess.DEVNULL, start_new_session=True, pass_fds=held
    )


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


def _pass_on_to(pid: int, told_to_end: threading.Event) -> Any:
    def pass_on(number: int, frame: FrameType | None) -> None:
        told_to_end.set()
        os.killpg(pid, number)

    return pass_on
