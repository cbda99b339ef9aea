"""Starts a job's processes, again where they were lost, and tells the end of those that could not.

The same for a worker, for torchrun's ranks and for those on a cluster: whoever calls owns the job meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import NamedTuple

from trainkit.errors import StoreError, UnknownJobError
from trainkit.files.endings import Ending, cause_of_death
from trainkit.files.owners import process
from trainkit.files.record import EndedBy, Record, Status, begin_restart
from trainkit.files.recorder import Recorder
from trainkit.files.store import Handle, Store
from trainkit.ranks.ends import (
    RankEnd,
    bring_back_what_was_raised,
    cause_of_end,
    forget_rank_ends,
    rank_ends,
)
from trainkit.runners.process import kill_descendants, kill_session


class Started(NamedTuple):
    """What runs an attempt: the leader of a session of its own.

    Attributes:
        pid: its process.
        wait: returns when it has ended, with its exit code or the negative number of a signal.
        begin: lets it begin, when it is known where it can be found.
    """

    pid: int
    wait: Callable[[], int]
    begin: Callable[[], None] = lambda: None


def see_through(
    store: Store, record: Record, handle: Handle, start: Callable[[], Started], *, at_once: bool = False
) -> None:
    """Bring a job whose turn it is to its terminal state.

    Args:
        store: where its files are.
        record: QUEUED.
        handle: with this process; those that are started are added.
        start: starts what runs an attempt.
        at_once: whether to kill it when this process is told to end, rather than to tell it so.
    """
    me = handle.processes[0]
    told_to_end = False
    started: Started

    def pass_on(number: int, frame: FrameType | None) -> None:
        nonlocal told_to_end
        told_to_end = True
        os.killpg(started.pid, signal.SIGKILL if at_once else number)

    while True:
        forget_rank_ends(store.paths(record.job_id))
        started = start()
        signal.signal(signal.SIGTERM, pass_on)
        # Before the job begins: once it has ended, it may be resumed, and the handle is another attempt's.
        handle.processes = [me, process(started.pid)]
        store.write_handle(record.job_id, handle)
        started.begin()
        code = started.wait()
        kill_session(started.pid)
        kill_descendants(me.pid)
        try:
            found = store.read(record.job_id)
        except UnknownJobError:
            return  # deleted as soon as its end was written
        if found.status.terminal or found.attempt != record.attempt:
            return  # it told its end, and may be resumed since
        record = found
        if told_to_end or not may_restart(store, record, requests_offset=handle.requests_offset):
            bury(store, record, code, requests_offset=handle.requests_offset)
            return
        restart(store, record, code)


def asked_for(store: Store, record: Record, requests_offset: int) -> set[str]:
    """What was asked of an attempt so far."""
    requests, _ = store.requests(record.job_id, requests_offset)
    return {action for request in requests if isinstance(action := request.get("action"), str)}


def may_restart(store: Store, record: Record, *, requests_offset: int) -> bool:
    """Whether a job whose processes have ended without a word may begin again from its checkpoint.

    A rank that raised is no accident and would raise again; who was asked to end ends.
    """
    if record.restarts >= record.resources.retries:
        return False
    asked = asked_for(store, record, requests_offset) & {"stop", "finish", "kill"}
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
    killed = stopped = False
    with contextlib.suppress(StoreError):  # where nobody can tell what was asked, the death is told as any other
        killed = recorder.requested("kill")
        stopped = record.status is Status.QUEUED and recorder.requested("stop", "finish")
    if killed:
        recorder.close(Ending(Status.STOPPED, EndedBy.USER, "killed on request"))
    elif stopped:
        recorder.close(Ending(Status.STOPPED, EndedBy.USER, "stopped while it waited; nothing was run"))
    else:
        paths = store.paths(record.job_id)
        ends: list[RankEnd] = []
        with contextlib.suppress(StoreError):  # where the disk does not say what its ranks told, its code does
            ends = rank_ends(paths)
            bring_back_what_was_raised(paths, ends)
        recorder.close(cause_of_end(ends) or cause_of_death(code))
