"""How ranks act as one: what any of them was asked is taken by all of them at the same step.

Only rank 0 hears what people ask, and the training code may end early on one rank alone.  So wishes wait until
the ranks meet, between two steps, and are handed out there to all.  Meeting takes 0.2 ms, and costs more: the
quicker ranks wait for the slowest once more in a step than for its gradients (2 ms of a step of 29 ms, of two
ranks on two cores).  So where steps are shorter than :data:`EVERY_S` the ranks meet every few steps only, as many
as rank 0 says.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from trainkit.errors import StateError
from trainkit.files.record import RankInfo
from trainkit.ranks.group import Ranks

#: How long steps may go on before the ranks meet again, in seconds; a stop takes no longer to reach them.
EVERY_S = 0.1
#: The most steps between two meetings: should steps become slow at once, a stop waits for as many.
MOST_STEPS = 16
#: How often the ranks tell each other how fast they are, in seconds.
TELL_S = 1.0

_APART = ": every rank has to make the same steps"

Wish = dict[str, Any]
Batch = TypeVar("Batch")


class Agreement:
    """What the ranks were asked, taken by all at the same step.

    Args:
        ranks: who has to agree.
        take: acts upon a wish, in the training thread of every rank, in the same order everywhere.
        clock: seconds, from any beginning.

    Attributes:
        at_step: the step at which the ranks meet next; infinity where there is nobody to meet.
        members: all ranks, as they were at the last telling.
        device: where this rank trains.
        loading_s: how long this rank has waited for its own batches.
    """

    def __init__(
        self, ranks: Ranks, take: Callable[[Wish], None], *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._ranks = ranks
        self._take = take
        self._clock = clock
        self._wishes: deque[Wish] = deque()
        self.alone = ranks.world_size == 1
        self.at_step: float = math.inf if self.alone else 0
        self.members: list[RankInfo] = []
        self.device: str | None = None
        self.loading_s = 0.0
        self._met = (clock(), 0)
        self._told = (clock(), 0, 0.0)
        self._steps = 1

    def wish(self, wish: Wish) -> None:
        """Have something taken by every rank, at once where there is only one.  Any thread may call this."""
        if self.alone:
            self._take(wish)
        elif wish not in self._wishes:
            self._wishes.append(wish)

    def meet(self, step: int) -> None:
        """Meet the others, in the training thread; every rank has to be here, after the same step.

        Args:
            step: the step that has ended.

        Raises:
            StateError: another one has come to its end already.
        """
        if self.alone:
            return
        now = self._clock()
        self._adjust(now, step)
        leads = self._ranks.rank == 0
        telling = leads and now - self._told[0] >= TELL_S
        count = len(self._wishes)
        anything, steps, left, _ = self._ranks.highest(
            [int(bool(count) or telling), self._steps if leads else 0, 0, 1]
        )
        if left:
            raise StateError(f"another rank has returned, and rank {self._ranks.rank} is at step {step}{_APART}")
        self.at_step = step + steps
        if not anything:
            return
        mine = [self._wishes.popleft() for _ in range(count)]
        answers = self._ranks.gather((mine, self._tell(now, step)))
        self.members = [info for _, info in answers]
        for wishes, _ in answers:
            for wish in wishes:
                self._take(wish)

    def leave(self, step: int) -> None:
        """Wait until all have come to the end.

        Args:
            step: the last one of this rank.

        Raises:
            StateError: another one is still on its way, and would wait for this one for ever.
        """
        if self.alone:
            return
        _, _, _, on_its_way = self._ranks.highest([0, 0, 1, 0])
        if on_its_way:
            raise StateError(
                f"rank {self._ranks.rank} has returned after step {step}, and others have not{_APART}"
            )

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Pass batches on, and note how long this rank waits for them."""
        return batches if self.alone else self._timed(batches)

    def _timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        clock = self._clock
        while True:
            began_at = clock()
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self.loading_s += clock() - began_at
            yield batch

    def _adjust(self, now: float, step: int) -> None:
        """Choose how many steps to go on without meeting, by how long the last ones took."""
        met_at, met_step = self._met
        if step > met_step:
            per_step_s = max(1e-9, (now - met_at) / (step - met_step))
            self._steps = max(1, min(int(EVERY_S / per_step_s), 2 * self._steps, MOST_STEPS))
        self._met = (now, step)

    def _tell(self, now: float, step: int) -> RankInfo:
        told_at, told_step, told_loading_s = self._told
        passed_s, steps = now - told_at, step - told_step
        self._told = (now, step, self.loading_s)
        measured = steps > 0 and passed_s > 0
        return RankInfo(
            rank=self._ranks.rank,
            node=self._ranks.node,
            pid=os.getpid(),
            device=self.device,
            steps_per_s=round(steps / passed_s, 3) if measured else None,
            loading_share=round(min(1.0, (self.loading_s - told_loading_s) / passed_s), 3) if measured else None,
        )
