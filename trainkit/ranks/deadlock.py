"""Ranks that wait for each other at different steps: one has left the loop that another is still in.

The one waits for the others where all ranks come together, between two steps.  The other is within a later
step, and waits there for the gradients of the first, if its model is in ``DistributedDataParallel``.  Neither
would say a word until gloo gives up, after half an hour.  So a rank that has waited for a while says so, with its
step, where all ranks can read it, and a rank that stays in a later step looks there.  Since ranks come together
at the same step only, two such ranks never will, however long the step takes: no healthy job is ended.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from trainkit.ranks.group import Ranks

#: How often it is looked, how long a rank waits before it says so, and how long another may stay in a later step.
LOOK_S, SAY_S, PATIENCE_S = 1.0, 5.0, 30.0


class DeadlockWatch:
    """Looks, in a thread of each rank, whether its ranks wait for each other for ever.

    Args:
        ranks: all of them.
        step: tells the step that this rank has begun, or None where it cannot tell.
        tell: called once, in the thread, with what is wrong and what to do.
    """

    def __init__(self, ranks: Ranks, step: Callable[[], int | None], tell: Callable[[str], None]) -> None:
        self._ranks = ranks
        self._step = step
        self._tell = tell
        self._seen: tuple[float, int] | None = None

    def start(self) -> None:
        """Look from now on, if there is anybody to wait for."""
        if self._ranks.world_size > 1:
            threading.Thread(target=self._look_again_and_again, name="trainkit-deadlocks", daemon=True).start()

    def look(self, now: float) -> str | None:
        """Say that this rank waits, or return what is wrong if it stays in a step that it cannot end.

        Args:
            now: on the clock of ``time.monotonic``, in seconds.
        """
        mine, since = self._step(), self._ranks.waits_since
        if since is not None:
            self._seen = None
            if mine is not None and now - since >= SAY_S:
                self._ranks.say_that_it_waits(mine)
            return None
        waiting = self._ranks.who_waits()
        if mine is None or waiting is None or mine <= waiting[1]:
            self._seen = None
            return None
        if self._seen is None or self._seen[1] != mine:
            self._seen = (now, mine)
        if now - self._seen[0] < PATIENCE_S:
            return None
        rank, step = waiting
        return (
            f"rank {rank} has made {step} steps and waits for the others, and rank {self._ranks.rank} is within "
            f"step {mine}, which it may never end without rank {rank}: every rank has to make the same steps. "
            "Leave a loop on all ranks at once, by a number that all have, such as one of run.sum_over_ranks"
        )

    def _look_again_and_again(self) -> None:
        while True:
            time.sleep(LOOK_S)
            try:
                told = self.look(time.monotonic())
            except RuntimeError:
                return  # what they say goes by way of rank 0, which is gone: who started the ranks sees that, too
            if told is not None:
                self._tell(told)
                return
