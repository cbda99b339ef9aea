"""How a job waits for its turn, whichever runner it is for.

Waiting never fails a job: whatever is wrong with the queue is tried again, and the record's message says what it
is.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

from trainkit.errors import LockedError, RecordError, StoreError, TrainkitError, UnknownJobError
from trainkit.files.endings import Ending
from trainkit.files.record import EndedBy, Record, Status
from trainkit.files.recorder import Recorder
from trainkit.files.store import Store
from trainkit.runners.slots import Ticket, job_limit

#: How long a job that waits waits for the queue itself, before it looks whether it is still to wait.
_LOOK_S = 0.2
#: For how long the queue may be locked before that is reported: a busy machine is not a reason to alarm anybody.
_TELL_S = 10.0
#: How often the jobs ahead are looked at though the folder has not changed: the tickets of killed ones stay there.
_LOOK_AHEAD_S = 0.5
#: How often the whole queue is looked at in any case.
_LOOK_ANYWAY_S = 5.0
#: How long after an error of the queue it is tried again.
_RETRY_S = 1.0
#: A change of the folder that is younger than this may hide another one: its time is not exact.
_COARSE_NS = 50_000_000
#: How often holders of places look whether their tickets are still there.
RESTORE_S = 1.0
#: How long a job waits after its ticket was removed: all others have made theirs again by then.
RESTORED_S = 2.5
#: Between two looks of a job that waits: from the first to the last.
SHORTEST_S, LONGEST_S = 0.01, 0.2


class FolderWatch:
    """Whether something may have changed in the folder of a queue: a ticket was drawn, lent, given up or removed.

    That costs one system call, however many wait.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._seen_ns = -1

    def has_changed(self) -> bool:
        """Whether something may have changed since this was last asked."""
        try:
            changed_ns = os.stat(self._folder).st_mtime_ns
        except OSError:
            return True
        seen_ns, self._seen_ns = self._seen_ns, changed_ns
        if abs(time.time_ns() - changed_ns) < _COARSE_NS:
            self._seen_ns = -1
        return changed_ns != seen_ns


class Turn:
    """One ticket's wait for its turn.

    Args:
        ticket: the place in the queue.
        limit: how many jobs may run at once, asked anew each time.
        waiting_for: gets the ids of the jobs ahead whenever they change.
        report: gets what is wrong with the queue, once.
        clock: seconds, from any beginning.
    """

    def __init__(
        self,
        ticket: Ticket,
        *,
        limit: Callable[[], int] = job_limit,
        waiting_for: Callable[[list[str]], None],
        report: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ticket, self._limit, self._clock = ticket, limit, clock
        self._waiting_for, self._report = waiting_for, report
        self._ahead: list[str] = []
        self._problem = ""
        self._report_at: float | None = None
        self._not_before = self._looked_at = self._looked_ahead_at = -math.inf
        self._watch = FolderWatch(ticket.path.parent)

    def has_come(self) -> bool:
        """Look at the queue if something may have changed; return whether the job runs from now on."""
        now = self._clock()
        if now < self._not_before:
            return False
        if not (self._watch.has_changed() or now - self._looked_at >= _LOOK_ANYWAY_S or self._is_freed(now)):
            return False
        self._looked_at = now
        try:
            if self.keep_ticket():
                return False
            ahead = self._ticket.try_start(self._limit(), timeout_s=_LOOK_S)
        except LockedError as error:
            # A process that is stopped (SIGSTOP, or Ctrl-Z in its shell) at the wrong instant: it may go on.
            self._looked_at = -math.inf
            self._report_at = now + _TELL_S if self._report_at is None else self._report_at
            if now >= self._report_at:
                self._report_problem(f"waiting for the queue, which is kept by {error.holder}")
            return False
        except (TrainkitError, OSError) as error:
            self._not_before, self._looked_at = now + _RETRY_S, -math.inf
            self._report_problem(f"waiting for the queue, which is tried again: {error}")
            return False
        self._report_at, self._problem = None, ""
        self.ahead(ahead)
        return not ahead

    def ahead(self, job_ids: list[str]) -> bool:
        """Take note of the jobs ahead; return whether that is news."""
        if not job_ids or job_ids == self._ahead:
            return False
        self._ahead = job_ids
        self._waiting_for(job_ids)
        return True

    @property
    def jobs_ahead(self) -> list[str]:
        """The ids of the jobs ahead, as far as they are known."""
        return self._ahead

    def keep_ticket(self) -> bool:
        """Make the ticket again if it was removed; return whether it was, and the job has to wait for the others.

        Raises:
            StoreError, OSError, RunnerError: it cannot be made now.
        """
        if not self._ticket.restore():
            return False
        self._not_before, self._looked_at = self._clock() + RESTORED_S, -math.inf
        return True

    def _is_freed(self, now: float) -> bool:
        """Whether a job ahead has been killed."""
        if now - self._looked_ahead_at < _LOOK_AHEAD_S:
            return False
        self._looked_ahead_at = now
        return not self._ticket.is_blocked()

    def _report_problem(self, problem: str) -> None:
        if problem != self._problem:
            self._problem, self._ahead = problem, []
            self._report(problem)


class QueuedJob:
    """A job that waits for its turn, without an open file but its lock and its ticket.

    Args:
        store: where its files are.
        record: QUEUED.
        ticket: its place in the queue.
        requests_offset: where the requests of its attempt begin.
    """

    def __init__(self, store: Store, record: Record, ticket: Ticket, *, requests_offset: int) -> None:
        self.store, self.record, self.ticket = store, record, ticket
        self.turn = Turn(ticket, waiting_for=self._name_those_ahead, report=self.report)
        self._requests_offset = self._requests_bytes = requests_offset
        self._requests = str(store.paths(record.job_id).requests)

    def is_to_end(self) -> bool:
        """Whether somebody has asked the job to end."""
        with contextlib.suppress(OSError):  # what cannot be read now is read later
            size = os.stat(self._requests).st_size
            if size == self._requests_bytes:
                return False
            offset = self._requests_offset if size >= self._requests_offset else 0  # emptied by somebody
            requests, _ = self.store.requests(self.record.job_id, offset)
            self._requests_bytes = size
            return any(request.get("action") in ("stop", "finish", "kill") for request in requests)
        return False

    def end(self, *, interrupted: bool = False) -> None:
        """Write the end of a job that never ran.

        Args:
            interrupted: whether the process that would have run it ends, rather than that somebody asked for it.

        Raises:
            StoreError: it cannot be written.
        """
        ending = Ending(Status.STOPPED, EndedBy.USER, "stopped while it waited; nothing was run")
        if interrupted:
            message = "the interpreter that would have run it was shut down; nothing was run"
            ending = Ending(Status.INTERRUPTED, EndedBy.LOST, message)
        Recorder(self.store, self.record, requests_offset=self._requests_offset).close(ending)

    def report(self, message: str) -> None:
        """Put what the job waits for into its record."""
        if message == self.record.message:
            return
        self.record.message = message
        self.record.updated_at = self.record.heartbeat_at = time.time()
        with contextlib.suppress(StoreError):  # the disk is full, say; the next message is written with it
            self.store.write_record(self.record, durable=False)

    def _name_those_ahead(self, job_ids: list[str]) -> None:
        names = [called(self.store, job_id) for job_id in job_ids[:3]]
        self.report(f"waiting for {', '.join(names)}{' …' if len(job_ids) > 3 else ''}")


def wait_in_queue(job: QueuedJob, *, pause: Callable[[float], object] = time.sleep) -> bool:
    """Wait until a job may run; on a request to end, write its end instead.  Returns whether to run."""
    pause_s = SHORTEST_S
    while not job.is_to_end():
        if job.turn.has_come():
            return True
        pause(pause_s)
        pause_s = min(LONGEST_S, pause_s * 1.5)
    job.end()
    return False


def starts_at_once(ticket: Ticket) -> bool:
    """Whether a job may run now; where the queue cannot be asked in a moment, the job waits and reports why."""
    try:
        return not ticket.try_start(job_limit(), timeout_s=_LOOK_S)
    except (TrainkitError, OSError):
        return False


def called(store: Store, job_id: str) -> str:
    """Return what people call a job: its name, and the end of its id, as names come again.

    A job of another root, which shares the queue, has only its id here.
    """
    try:
        return f"{store.read(job_id).name} ({job_id[-4:]})"
    except (UnknownJobError, RecordError):
        return job_id
