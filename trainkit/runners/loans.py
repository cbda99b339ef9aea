"""A job that waits for a queued job lends its place in the queue to that job, so that neither waits for ever.

The place returns with the end of the borrower, without a wait: a lender and its borrower never take more than one
place together.  A lender that stops waiting before that, because its ``timeout`` is over, counts again at once;
until one of the two has ended, no other job starts in addition.

Only the thread that runs the training function lends: what else waits in its process may do so while it trains.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from trainkit.errors import LockedError, RunnerError, StateError, StoreError, telling
from trainkit.files.store import Store
from trainkit.files.whole import matching
from trainkit.runners.slots import RUNNING, State, is_held, queue_folder, queue_locked, read_state, write_state

#: How long a job that waits for another one waits for the queue itself, before it looks at that job again.
_LOOK_S = 0.2


class Place:
    """The place in the queue of a job that runs in this thread.

    Args:
        store: the job's.
        job_id: the job.
        ticket: its ticket.
    """

    def __init__(self, store: Store, job_id: str, ticket: Path) -> None:
        self._of = store.real_root, job_id
        self._ticket = ticket
        self._pid = os.getpid()

    @classmethod
    def named(cls, store: Store, job_id: str, ticket: str) -> Place | None:
        """Return the place of a job by the name of its ticket, where that is held; None otherwise."""
        if not re.fullmatch(rf"\d+\.{job_id}\.ticket", ticket):
            return None
        with contextlib.suppress(RunnerError, OSError):
            if is_held(path := queue_folder() / ticket):
                return cls(store, job_id, path)
        return None

    @property
    def is_here(self) -> bool:
        """Whether the job runs in this process, rather than in the one that has forked it."""
        return self._pid == os.getpid()

    def is_of(self, store: Store, job_id: str) -> bool:
        """Whether this is the place of a job."""
        return self._of == (store.real_root, job_id)

    def lend(self, job_id: str) -> None:
        """Lend the place to a queued job, unless it is lent already.  What is not possible now may be later."""
        state = read_state(self._ticket)
        if state.kind == "lent" and is_held(self._ticket.with_name(state.other)):
            return
        folder = self._ticket.parent
        with contextlib.suppress(LockedError, StoreError), queue_locked(folder, timeout_s=_LOOK_S):
            if not is_held(self._ticket) or not read_state(self._ticket).has_started:
                return  # it was removed, and is not made again yet
            for borrower in matching(folder, f"*.{job_id}.ticket"):
                if is_held(borrower) and not _is_served(borrower):
                    _write(self._ticket, State("lent", borrower.name))
                    _write(borrower, State("borrowed", self._ticket.name))
                    with contextlib.suppress(OSError):
                        os.utime(folder)  # those who wait look at the queue when its folder has changed
                    return

    def take_back(self, job_id: str) -> None:
        """Take back what is lent to a job."""
        state = read_state(self._ticket)
        if state.kind != "lent" or state.other.split(".")[1:2] != [job_id]:
            return
        # What fails here changes nothing: what is lent to a job that has ended counts as before.
        with (
            contextlib.suppress(LockedError, StoreError),
            queue_locked(self._ticket.parent, timeout_s=_LOOK_S),
        ):
            if is_held(self._ticket):
                _write(self._ticket, RUNNING)


_own: contextvars.ContextVar[Place | None] = contextvars.ContextVar("trainkit_place", default=None)


@contextlib.contextmanager
def taken(place: Place | None) -> Iterator[None]:
    """Say that the job whose function is called meanwhile has this place."""
    token = _own.set(place)
    try:
        yield
    finally:
        _own.reset(token)


@contextlib.contextmanager
def waiting_for(store: Store, job_id: str) -> Iterator[Callable[[], None]]:
    """Wait for a job; yield what is to be called from time to time while that job is QUEUED.

    Raises:
        StateError: it is the job that this thread runs.
    """
    if (place := _own.get()) is None or not place.is_here:
        yield lambda: None
        return
    if place.is_of(store, job_id):
        raise StateError(
            f"job {job_id!r} waits for itself, so it would never end; wait for it outside of its function"
        )
    try:
        yield lambda: place.lend(job_id)
    finally:
        place.take_back(job_id)


def _is_served(borrower: Path) -> bool:
    """Whether a job has started, or will at once because somebody else has lent it a place."""
    state = read_state(borrower)
    if state.kind != "borrowed":
        return state.has_started
    lender = borrower.with_name(state.other)
    return is_held(lender) and read_state(lender) == State("lent", borrower.name)


def _write(ticket: Path, state: State) -> None:
    with telling(ticket):
        fd = os.open(ticket, os.O_RDWR)
        try:
            write_state(fd, state)
        finally:
            os.close(fd)
