"""For how long a loop waits for its batches: timed now and then for about a second, and not at all in between."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

Batch = TypeVar("Batch")

#: A measurement is over after so long, and so many batches.
LONG_ENOUGH_S = 1.0
_ENOUGH_BATCHES = 5


class Stopwatch:
    """Times some of a loop's batches, when it is asked to.

    The training thread looks at it only where it looks after its requests anyway; another thread asks and reads.

    Args:
        call: makes the training thread look.
        clock: seconds, from any beginning.
    """

    def __init__(self, call: Callable[[], None], *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._call, self._clock = call, clock
        self._wanted = False
        self.waited_s = self.passed_s = 0.0
        self.batches = 0

    def begin(self) -> None:
        """Have the next batches timed."""
        self.waited_s = self.passed_s = 0.0
        self.batches = 0
        self._wanted = True
        self._call()

    @property
    def share(self) -> float | None:
        """Which part of its time the loop waited, once that is known, since :meth:`begin`."""
        return None if self._wanted or not self.batches else self.waited_s / self.passed_s

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Return the batches, timed if that is wanted, else as they were; for the training thread."""
        if isinstance(batches, _Timed):
            return batches if self._wanted else batches.batches
        return _Timed(batches, self, self._clock) if self._wanted else batches

    def note(self, waited_s: float, passed_s: float) -> None:
        """Take one batch into account."""
        self.waited_s += waited_s
        self.passed_s += passed_s
        self.batches += 1
        if self._wanted and self.passed_s >= LONG_ENOUGH_S and self.batches >= _ENOUGH_BATCHES:
            self._wanted = False
            self._call()


class _Timed(Iterator[Batch]):
    def __init__(self, batches: Iterator[Batch], watch: Stopwatch, clock: Callable[[], float]) -> None:
        self.batches = batches
        self._watch, self._clock = watch, clock
        self._came_at: float | None = None

    def __next__(self) -> Batch:
        asked_at = self._clock()
        batch = next(self.batches)
        now = self._clock()
        since = asked_at if self._came_at is None else self._came_at
        self._came_at = now
        self._watch.note(now - asked_at if _device_is_idle() else 0.0, now - since)
        return batch


def _device_is_idle() -> bool:
    """Whether a GPU has done all that it was given, so that it waits too; asked without waiting for it."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return True
    return bool(torch.cuda.current_stream().query())
