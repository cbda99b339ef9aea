"""Where a run is in its loops, and how a later attempt comes back to that place with the same random numbers.

A place is an epoch and a number of batches within it.  To come back, the code of the epoch is run again from
its top with the random numbers of then, the batches that were done are passed over, and the random numbers of
the cut are restored.  Leaving out any one of these changes the bits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from trainkit.resuming.determinism import compute_state, plain_random_state, random_state, restore_random_state
from trainkit.resuming.loaderrandom import LoaderGenerators
from trainkit.resuming.steering import Position

Batch = TypeVar("Batch")


class Place:
    """The place of a run in its loops.

    Args:
        keeps_random: the libraries whose random generators belong to the run; in a notebook's process those are
            the notebook's.
        saved: what :meth:`content` gave in an earlier attempt.
        world_size: how many ranks take a batch each in one step.

    Attributes:
        step: how many steps have begun, over all epochs and attempts.
        epoch: the current epoch, from 1.
        looping: whether a loop has begun, so that a checkpoint has a place to come back to.
        within_epoch: whether the code of an epoch is running.
        epochs: how many epochs the loop has, if there is one.
        steps_by_log: whether every logged line is a step, because no loop over batches tells of them.
        wake_at: the step from which on something is to be done between two steps, infinity if nothing is.
    """

    def __init__(
        self, *, keeps_random: Collection[str], saved: Mapping[str, Any] | None = None, world_size: int = 1
    ) -> None:
        self.step = 0
        self.epoch = 0
        self.looping = False
        self.within_epoch = False
        self.epochs: int | None = None
        self.steps_by_log = True
        self.wake_at: float = math.inf
        self._keeps_random = keeps_random
        self._saved = dict(saved or {})
        self._world_size = world_size
        self._came_with = saved["step"] if saved else None
        self._loop = 0  # which of the calls of `run.epochs` this is, from 1
        self._part = 0  # which of the loops over batches within the epoch this is, from 1
        self._offset = 0  # batches begun in this epoch
        self._skip = 0  # batches of this epoch that an earlier attempt has done
        self._epoch_random: dict[str, Any] = {}  # as it was when the epoch began
        self._loaders = LoaderGenerators(self._saved.get("loaders_random"))
        if saved:
            self.step, self.epoch = saved["step"], saved["epoch"]
            self._skip = self._offset = saved["offset"]
            self.steps_by_log = saved.get("steps_by_log", True)

    @property
    def epoch_to_tell(self) -> int:
        """The current epoch, from 1; after the last one still the last."""
        return min(self.epoch, self.epochs or self.epoch)

    @property
    def steps_before_epoch(self) -> int:
        """How many steps had begun when the current epoch began."""
        return self.step - self._offset

    @property
    def within_an_epoch_of_logs(self) -> bool:
        """Whether this is a step that only a logged line tells of, so that to come back its epoch is run again."""
        return self.steps_by_log and self.within_epoch

    @property
    def position(self) -> Position:
        """The place as something to compare: a later place is greater, and repeated code comes by it again."""
        return (self._loop, self.epoch, self._part, self.step)

    @property
    def going_back(self) -> bool:
        """Whether an earlier attempt has done all that was done so far."""
        return self.step == self._came_with

    @property
    def passing_over(self) -> bool:
        """Whether the run is on its way back to where an earlier attempt was cut."""
        return self._skip > 0

    def begin_loop(self) -> int | None:
        """Begin a loop over epochs; return its first epoch, from 0, or None if an earlier attempt has done it."""
        self.looping = True
        self._loop += 1
        loop_of_the_cut = self._saved.get("loop", 0)
        if self._loop < loop_of_the_cut:
            return None
        return max(self.epoch - 1, 0) if self._loop == loop_of_the_cut else 0

    def begin_epoch(self, epoch: int) -> None:
        """Be before the first batch of an epoch, or of what is left of it."""
        self.epoch = epoch
        self._part = 0
        self._offset = self._skip
        self._loaders.begin_epoch()
        self._restore("epoch_random" if self._skip else "random")
        self._epoch_random = random_state(self._keeps_random)

    def begin_batches(self, loader: Iterable[Batch], *, dealt: bool = False) -> Iterator[Batch]:
        """Begin a loader's batches, and pass over those that an earlier attempt has done.

        Args:
            loader: gives the batches of this rank.
            dealt: whether a step of all ranks takes a batch for each, so that with other ranks than before the
                same place is another number of steps: the last whole one.
        """
        self.looping = True
        self._part += 1
        before = self._saved.pop("world_size", self._world_size)
        if dealt and self._skip and before != self._world_size:
            self._skip = self._offset = self._skip * before // self._world_size
        if self._skip:
            self._restore("epoch_random")  # where there is no loop over epochs to do it
        if self._keeps_random and not self._epoch_random:
            self._epoch_random = random_state(self._keeps_random)
        self._loaders.begin(self._part, getattr(loader, "generator", None))
        batches = iter(loader)
        if self._skip:
            # An epoch may have several loops over batches: the later ones pass over the rest.
            self._skip -= sum(1 for _ in itertools.islice(batches, self._skip))
            if not self._skip:
                self._restore("random")
                self._loaders.arrive()
        return batches

    def begin_step(self) -> None:
        """Count a batch."""
        self.step += 1
        self._offset += 1

    def content(self) -> dict[str, Any]:
        """Return the place in plain types and tensors, to be kept in a checkpoint."""
        return {
            "step": self.step,
            "epoch": self.epoch,
            "offset": self._offset,
            "loop": self._loop,
            "steps_by_log": self.steps_by_log,
            "random": plain_random_state(random_state(self._keeps_random)),
            "epoch_random": plain_random_state(self._epoch_random) if self._epoch_random else {},
            "loaders_random": self._loaders.content(),
            "compute": compute_state(),
            "world_size": self._world_size,
        }

    def _restore(self, name: str) -> None:
        state = self._saved.pop(name, None)
        if state and self._keeps_random:
            restore_random_state({name: each for name, each in state.items() if name in self._keeps_random})


def of_rank(saved: Mapping[str, Any], rank: int, world_size: int) -> dict[str, Any]:
    """Return what a rank goes on from: its own random numbers, if there are as many ranks as there were.

    Args:
        saved: a checkpoint.
        rank: which one goes on.
        world_size: how many do.
    """
    if rank == 0:
        return dict(saved)
    if saved.get("world_size", 1) != world_size:
        # Those of rank 0 would make all ranks drop out the same units.
        return {name: value for name, value in saved.items() if name not in ("random", "epoch_random")}
    own = saved["ranks"][rank]
    return {**saved, **own["place"], "tracked": {**saved["tracked"], **own["generators"]}}
