"""One thread that gives all waiting thread jobs of this process their turns.

A job that waits has no thread and no open file but its lock and its ticket, so that hundreds of them can wait.
The thread also makes the tickets of running jobs again where somebody has removed them.  It ends when no job is
left.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from trainkit.errors import TrainkitError
from trainkit.runners.descriptors import check_open_files
from trainkit.runners.queueing import LONGEST_S, RESTORE_S, SHORTEST_S, FolderWatch, QueuedJob

#: How many jobs get a new message in one look: with hundreds waiting, all have it after some seconds.
_MESSAGES_AT_ONCE = 10


class Dispatched(Protocol):
    """A job for the dispatcher."""

    queued: QueuedJob

    def start(self) -> None:
        """Start its thread, which returns to :meth:`Dispatcher.leave` at its end.

        Raises:
            RuntimeError: the system has no room for another thread.
        """

    def wait(self) -> None:
        """Get ready for a longer wait; called once."""

    def cancel(self, *, interrupted: bool) -> None:
        """End it without a run."""


class Dispatcher:
    """The waiting and running thread jobs of this process.

    Args:
        is_ending: whether this interpreter ends, so that nothing is started any more.
    """

    def __init__(self, is_ending: Callable[[], bool]) -> None:
        self._is_ending = is_ending
        self._guard = threading.Lock()
        self._waiting: list[Dispatched] = []
        self._running: list[Dispatched] = []
        self._ready: set[Dispatched] = set()  # they have their places, but no thread yet
        self._new: set[Dispatched] = set()
        self._watches: dict[Path, FolderWatch] = {}
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, job: Dispatched) -> None:
        """Start a job at once if its turn has come, else in its turn, or end it on a request before that.

        Raises:
            RuntimeError: the system has no room for another thread.
        """
        starts = not self._is_ending() and job.queued.turn.has_come()
        with self._guard:
            self._waiting.append(job)
            self._waiting.sort(key=lambda each: each.queued.ticket.path.name)
            self._new.add(job)
            try:
                if self._thread is None or not self._thread.is_alive():
                    self._thread = threading.Thread(target=self._serve, name="trainkit-dispatcher", daemon=True)
                    self._thread.start()
                if starts:
                    # Here, so that it does not wait for our thread; its own end waits for the guard.
                    self._ready.add(job)
                    with contextlib.suppress(RuntimeError):  # no room for a thread: our thread tries again
                        job.start()
                        self._waiting.remove(job)
                        self._running.append(job)
                        self._ready.discard(job)
                        self._new.discard(job)
            except BaseException:
                self._forget(job)
                raise
        self._wake.set()

    def leave(self, job: Dispatched) -> None:
        """Take note that a running job has ended, and given up its place."""
        with self._guard:
            self._forget(job)
        self._wake.set()

    def _forget(self, job: Dispatched) -> None:
        for jobs in (self._waiting, self._running):
            if job in jobs:
                jobs.remove(job)
        self._ready.discard(job)
        self._new.discard(job)

    # --- its thread ------------------------------------------------------------------------------

    def _serve(self) -> None:
        pause_s = SHORTEST_S
        while (waits := self._round()) is not None:
            if self._wake.wait(pause_s if waits else RESTORE_S):
                self._wake.clear()
                pause_s = SHORTEST_S
            else:
                pause_s = min(LONGEST_S, pause_s * 1.5)

    def _round(self) -> bool | None:
        """Look after all jobs once; return whether one waits, or None if none is left."""
        with self._guard:
            if not self._waiting and not self._running:
                self._thread = None
                return None
            waiting, running = list(self._waiting), list(self._running)
        for job in running:
            # What fails is tried again: the job runs on, and has no use for an error.
            with contextlib.suppress(TrainkitError, OSError):
                job.queued.ticket.restore()
        self._look(waiting)
        return bool(waiting)

    def _look(self, waiting: list[Dispatched]) -> None:
        first: dict[Path, QueuedJob] = {}  # in each queue, the first that has to wait
        folders = {job.queued.ticket.path.parent for job in waiting}
        watches = self._watches = {each: self._watches.get(each) or FolderWatch(each) for each in folders}
        changed = {each for each, watch in watches.items() if watch.has_changed()}
        messages = 0
        for job in waiting:
            queued, folder = job.queued, job.queued.ticket.path.parent
            try:
                interrupted = self._is_ending()
                if interrupted or queued.is_to_end():
                    self.leave(job)
                    job.cancel(interrupted=interrupted)
                    continue
                before = first.get(folder)
                is_lent = folder in changed and queued.ticket.state.kind == "borrowed"
                if job in self._ready or ((before is None or is_lent) and queued.turn.has_come()):
                    self._start(job)
                elif before is None:
                    first[folder] = queued
                else:
                    # The jobs ahead of the first are ahead of this one, too.
                    if folder in changed:
                        queued.turn.keep_ticket()
                    if messages < _MESSAGES_AT_ONCE:
                        messages += queued.turn.ahead(before.turn.jobs_ahead)
                if job in self._new and job not in self._running:
                    self._new.discard(job)
                    job.wait()
            except Exception as error:  # noqa: BLE001 - one job must not keep the others waiting
                self._watches.pop(folder, None)  # so that all look again
                queued.report(f"waiting; what went wrong is tried again: {error}")

    def _start(self, job: Dispatched) -> None:
        self._ready.add(job)
        check_open_files(spare=False)
        with self._guard:
            self._waiting.remove(job)
            self._running.append(job)
        try:
            job.start()
        except Exception:
            with self._guard:
                self._running.remove(job)
                self._waiting.insert(0, job)
            raise
        self._ready.discard(job)
        self._new.discard(job)
