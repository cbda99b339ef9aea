"""When a checkpoint is due by itself: after some seconds or steps, and never for more than 3 % of the time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from trainkit.errors import OptionError
from trainkit.files.scalars import number, taken, whole_number

#: How often a checkpoint is taken by itself, in seconds, and what share of the time it may take at most.
EVERY_S = 10.0
SHARE = 0.03


class Cadence:
    """The times at which a run saves itself.

    Attributes:
        step: the step from which on one is due; infinity if steps were not asked for.
    """

    def __init__(self) -> None:
        self.step: float = math.inf
        self._every_steps: int | None = None
        self._every_s = EVERY_S
        self._at: float | None = None
        self._ended_at: float | None = None
        self._took_s = 0.0
        self._taking = False

    def choose(self, now_step: int, *, steps: int | None, seconds: float | None) -> None:
        """Take what the user chose.

        Raises:
            OptionError: a number that is not positive.
        """
        if steps is not None:
            steps = whole_number(steps, "checkpoint_every(steps=...)", least=1)
        if seconds is not None:
            every_s = number(taken(seconds))
            if every_s is None or not every_s > 0:
                raise OptionError(f"checkpoint_every(seconds=...): expected a number > 0, got {every_s}")
            self._every_s, self._at = every_s, None
        if steps is not None:
            self._every_steps = steps
            self.step = now_step + steps

    def is_due(self, now: float) -> bool:
        """Whether it is time, in seconds that never go back; never while one is taken."""
        if self._taking:
            return False
        if self._at is None:
            self._at = now + self._every_s
        return now >= self._at

    def is_affordable(self, now: float) -> bool:
        """Whether one more would stay within the share of the time since the last one."""
        return self._ended_at is None or now - self._ended_at >= self._took_s / SHARE

    @contextmanager
    def taking(self, step: int, clock: Callable[[], float]) -> Iterator[None]:
        """Take one meanwhile, after a step; when it is over, plan the next by how long it took, or failed.

        Args:
            step: the step that has ended.
            clock: seconds that never go back.
        """
        begun_at, self._taking = clock(), True
        try:
            yield
        finally:
            self._ended_at = clock()
            self._took_s = max(0.0, self._ended_at - begun_at)
            self._at = self._ended_at + max(self._every_s, self._took_s / SHARE)
            if self._every_steps is not None:
                self.step = step + self._every_steps
            self._taking = False
