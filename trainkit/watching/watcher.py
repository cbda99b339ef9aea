"""Watches a run from the recorder's thread, and says early what goes wrong; costs the training nothing.

The rules are in :mod:`trainkit.watching.symptoms`; here is when they are asked, what they are told, and that a
matter is told once.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from trainkit.files.modelfile import model_file
from trainkit.files.record import Status
from trainkit.files.recorder import Recorder
from trainkit.files.units import size
from trainkit.watching import resources
from trainkit.watching.gradients import GradientNorm
from trainkit.watching.loading import Stopwatch
from trainkit.watching.symptoms import (
    FOUND_NORM,
    WAITING,
    Divergence,
    Word,
    disk_is_short,
    is_starved,
    memory_is_short,
)

#: How often the disk and the memory are looked at.
RESOURCES_EVERY_S = 5.0
#: Over how long it is judged whether the notebook starves the job.
WINDOW_S = 5.0
#: How often it is measured for how long the loop waits for its data.
FEED_EVERY_S = 15.0
#: The first batches are read from a cold disk, and an odd second proves nothing: it has to be twice in a row.
WAITED_IN_A_ROW = 2
#: What has passed and comes again is told again only after so long.
AGAIN_S = 600.0


class Watcher:
    """Made in the training thread; everything else is called in the recorder's.

    Args:
        recorder: writes the words down, and knows the job.
        stopwatch: times some of the loop's batches.
        gradients: takes the norm of the gradients now and then.
        free_bytes: tells what is free on the disk of a folder.
        memory: tells what is left of the memory.
        thread_times: tells how threads of this process have spent their time.
    """

    def __init__(
        self,
        recorder: Recorder,
        stopwatch: Stopwatch,
        gradients: GradientNorm,
        *,
        free_bytes: Callable[[Path], int] = resources.free_bytes,
        memory: Callable[[], resources.Memory] = resources.memory,
        thread_times: Callable[[Iterable[int]], list[resources.ThreadTime]] = resources.thread_times,
    ) -> None:
        self._recorder = recorder
        self._free_bytes, self._memory, self._thread_times = free_bytes, memory, thread_times
        self._paths = recorder.store.paths(recorder.record.job_id)
        self._divergence = Divergence()
        self._stopwatch = stopwatch
        self._gradients, self._gradients_at = gradients, 0.0
        self._feed_at: float | None = None
        self._waited = 0
        self._over_at: dict[str, float] = {}
        self._resources_at = 0.0
        # Where the job has the main thread for itself, in a process of its own, there is no notebook.
        own, main = threading.get_native_id(), threading.main_thread().native_id or 0
        self._threads = [main, own] if own != main else []
        self._window_at: float | None = None
        self._late_s, self._rounds = 0.0, 0
        self._times: list[resources.ThreadTime] = []
        self._calm = 0

    def hear(self, step: int, numbers: Mapping[str, float], non_finite: Mapping[str, int]) -> None:
        """Judge what was logged; see :meth:`trainkit.watching.symptoms.Divergence.hear`."""
        self._divergence.watched = self._recorder.metrics.watched
        self._say(self._divergence.hear(step, numbers, non_finite))

    def look(self, now: float, late_s: float) -> None:
        """Look around.

        Args:
            now: seconds, from any beginning.
            late_s: how much later than planned the recorder's thread woke.
        """
        if self._recorder.record.status is not Status.RUNNING:
            self._window_at = self._feed_at = None
            return
        if now >= self._resources_at:
            self._resources_at = now + RESOURCES_EVERY_S
            self._say([*self._disk(), *self._memory_left()])
        self._say(self._feeding(now))
        self._look_at_gradients(now)
        if self._threads:
            self._say(self._starved(now, late_s))

    # --- details ---------------------------------------------------------------------------------

    def _say(self, words: Iterable[Word]) -> None:
        recorder = self._recorder
        for cause, message, over in words:
            now = recorder.clock()
            if over:
                if recorder.clear(cause, message):
                    self._over_at[cause] = now
            elif not 0 <= now - self._over_at.get(cause, -AGAIN_S) < AGAIN_S:
                recorder.warn(message, cause=cause)

    def _disk(self) -> Iterable[Word]:
        told = self._recorder.warns_of("disk")
        free = self._free_bytes(self._paths.folder)
        next_bytes = self._checkpoint_bytes()
        if disk_is_short(free, next_bytes, told=told):
            takes = f", and the next checkpoint takes {size(next_bytes)}" if next_bytes else ""
            yield Word(
                "disk",
                f"the disk of {self._paths.root} is almost full: {size(free)} are free{takes}. Make room before "
                "the job can no longer save itself: job.delete() removes all files of a job that is over",
            )
        elif told:
            yield Word("disk", f"the disk has {size(free)} free again", over=True)

    def _checkpoint_bytes(self) -> int:
        saved = self._recorder.record.checkpoint
        if saved is None or not saved.size_bytes:
            return 0
        model = model_file(self._paths)
        return saved.size_bytes + (model.stat().st_size if model else 0)

    def _memory_left(self) -> Iterable[Word]:
        told = self._recorder.warns_of("memory")
        found = self._memory()
        if memory_is_short(found.available, found.total, found.swap_free, told=told):
            whose = "this container may use" if found.limited else "this machine has"
            holder = "the notebook's kernel, in which the job runs," if self._threads else "the job's process"
            yield Word(
                "memory",
                f"memory is about to run out: {size(found.available)} of the {size(found.total)} that {whose} are "
                f"left; {holder} holds {size(found.held)}. When none is left the system kills it without a word. "
                "Use smaller batches, fewer loader workers or less data, and delete what is no longer needed",
            )
        elif told:
            yield Word("memory", f"{size(found.available)} of memory are left again", over=True)

    def _feeding(self, now: float) -> Iterable[Word]:
        """Ask for a measurement, and later for its result; the answer may take as long as a few steps do."""
        share = self._stopwatch.share if self._feed_at == math.inf else None
        if self._feed_at is None or share is not None:
            self._feed_at = now + FEED_EVERY_S
        elif now >= self._feed_at:
            self._feed_at = math.inf
            self._stopwatch.begin()
        if share is None:
            return
        self._waited = self._waited + 1 if share > WAITING else 0
        if self._waited >= WAITED_IN_A_ROW:
            yield Word(
                "data",
                f"the loop waits for its data for {100 * share:.0f} % of its time. Load them beside the training "
                "(DataLoader(..., num_workers=2, persistent_workers=True)), or do less for a row; where all fits "
                "into memory, keep it as tensors and take whole batches by index",
            )
        elif self._waited == 0 and self._recorder.warns_of("data"):
            yield Word("data", f"the loop waits for its data for {100 * share:.0f} % of its time only", over=True)

    def _look_at_gradients(self, now: float) -> None:
        if (found := self._gradients.collect()) is not None:
            step, norm = found
            self.hear(step, {FOUND_NORM: norm}, {} if math.isfinite(norm) else {FOUND_NORM: step})
            self._gradients_at = now + self._gradients.pause_s
        if now >= self._gradients_at and not self._divergence.hears_gradients:
            self._gradients_at = now + self._gradients.pause_s
            self._gradients.begin()

    def _starved(self, now: float, late_s: float) -> Iterable[Word]:
        self._late_s += late_s
        self._rounds += 1
        if self._window_at is not None and now - self._window_at < WINDOW_S:
            return
        before, self._times = self._times, self._thread_times([*self._threads, threading.get_native_id()])
        window_s, rounds, late_s = now - (self._window_at or now), self._rounds, self._late_s
        first = self._window_at is None
        self._window_at, self._rounds, self._late_s = now, 0, 0.0
        if first:
            return
        spent = [
            resources.ThreadTime(new.computed_s - old.computed_s, new.ready_s - old.ready_s)
            for new, old in zip(self._times, before, strict=True)
        ]
        notebook, job = (sum(each) / window_s for each in spent[:2])
        # To have waited for a core is not to have waited for the interpreter.
        late_s = (late_s - spent[2].ready_s) / rounds
        starved = is_starved(late_s=late_s, switch_s=sys.getswitchinterval(), notebook=notebook, job=job)
        self._calm = 0 if starved else self._calm + 1
        if starved:
            yield Word(
                "starved",
                "the job starves: the notebook computes in the same process, where Python runs one thread at a "
                "time; it goes on, slowly. runner='process' runs a job beside the notebook; "
                "job.stop(), then job.resume(runner='process') moves this one",
            )
        elif self._recorder.warns_of("starved") and self._calm >= 2:
            yield Word("starved", "the notebook leaves the job its time again", over=True)
