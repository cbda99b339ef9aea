"""Where a run is in its loops, and how a later attempt comes back to that place with the same random numbers.

A place is an epoch, a loop over batches within it, and a number of batches within that.  To come back, the code of
the epoch is run again from its top with the random numbers of then, the batches that were done are passed over,
behind each loop the random numbers are put as they were there, and at the place of the cut those of the cut are
restored.  Leaving out any one of these changes the bits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from trainkit.resuming.determinism import compute_state, plain_random_state, random_state, restore_random_state
from trainkit.resuming.loaderrandom import LoaderGenerators
from trainkit.resuming.states import part_of
from trainkit.resuming.steering import Position
from trainkit.resuming.tracked import Tracked

Batch = TypeVar("Batch")


class Place:
    """The place of a run in its loops.

    Args:
        keeps_random: the libraries whose random generators belong to the run; in a notebook's process those are
            the notebook's.
        saved: what :meth:`content` gave in an earlier attempt, with the states of what was tracked.
        world_size: how many ranks take a batch each in one step.

    Attributes:
        step: how many steps have begun, over all epochs and attempts.
        epoch: the current epoch, from 1.
        looping: whether a loop has begun, so that a checkpoint has a place to come back to.
        within_epoch: whether the code of an epoch is running.
        epochs: how many epochs the loop has, if there is one.
        passing_over: whether the run is on its way back to where an earlier attempt was cut, within an epoch.
        steps_by_log: whether every logged line is a step, because no loop over batches tells of them.
        tracked: what the run tracks.
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
        in_a_loop = bool(self._saved.get("loop") or self._saved.get("offset"))
        self.tracked = Tracked(self._saved.pop("tracked", {}), in_a_loop=in_a_loop)
        self._world_size = world_size
        self._came_with = saved["step"] if saved else None
        self._came_back_to: int | None = None  # the epoch
        self._loop = 0  # which of the calls of `run.epochs` this is, from 1
        self._part = 0  # which of the loops over batches within the epoch this is, from 1
        self._offset = 0  # batches begun in this epoch
        self._part_offset = 0  # batches begun in this loop over batches
        self._ended: list[dict[str, Any]] = []  # the epoch's loops over batches that have ended: see `_end`
        self._is_the_only_part = False  # as far as the epoch before tells
        self._epoch_random: dict[str, Any] = {}  # as it was when the epoch began
        self._epoch_generators: dict[str, Any] = {}  # those that are tracked, likewise
        self._loaders = LoaderGenerators(self._saved.get("loaders_random"))
        if saved:
            self.step, self.epoch, self._offset = saved["step"], saved["epoch"], saved["offset"]
            self.steps_by_log = saved.get("steps_by_log", True)
        self.passing_over = bool(self._saved.get("part", self._offset))

    @property
    def epoch_to_tell(self) -> int:
        """The current epoch, from 1; after the last one still the last."""
        return min(self.epoch, self.epochs or self.epoch)

    @property
    def steps_before_epoch(self) -> int:
        """How many steps had begun when the current epoch began."""
        return self.step - self._offset

    @property
    def steps_within_epoch(self) -> int:
        """How many steps have begun in the current epoch."""
        return self._offset

    @property
    def has_passed_over_batches(self) -> bool:
        """Whether an earlier attempt has done some of the current loop over batches, or all of it."""
        return self._part_offset > 0 or self._loop < self._saved.get("loop", 0)

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
        self._is_the_only_part = len(self._ended) == 1
        self._part = self._part_offset = 0
        self._ended = []
        self._loaders.begin_epoch()
        if self.passing_over and self._came_back_to is None:
            self._came_back_to = epoch
            self._begin_the_epoch_again()
        else:
            self._offset = 0
            self._arrive()
        self._note_random()

    def begin_batches(self, loader: Iterable[Batch], *, dealt: bool = False) -> Iterator[Batch]:
        """Begin a loader's batches, and pass over those that an earlier attempt has done.

        Args:
            loader: gives the batches of this rank.
            dealt: whether a step of all ranks takes a batch for each, so that with other ranks than before the
                same place is another number of steps: the last whole one.
        """
        self.looping = True
        if self._loop < self._saved.get("loop", 0):
            return iter(())  # it came before the loop of the cut, and is done
        if self._part > len(self._ended):
            self._end(exhausted=False)  # a loop that was left without a word
        if self._ended and not self._ended[-1]:
            self._ended[-1].update(self._end_of_part(exhausted=True))
        self._part += 1
        self._part_offset = 0
        if not self.epoch and self._part == 1:  # there is no loop over epochs to do it
            if self.passing_over:
                self._begin_the_epoch_again()
            self._note_random()
        self._loaders.begin(self._part, part_of(loader, "generator"))
        batches = iter(loader)
        if not self.passing_over:
            return batches
        ended = self._saved.get("parts", [])
        before = self._saved.get("world_size", self._world_size)
        in_this = self._part <= len(ended)
        done = ended[self._part - 1]["batches"] if in_this else self._saved.get("part_offset", self._offset)
        if dealt and before != self._world_size:
            done = done * before // self._world_size
        self._part_offset = sum(1 for _ in itertools.islice(batches, done))
        if in_this:
            if ended[self._part - 1]["exhausted"]:
                next(batches, None)  # loaders may draw once more before they say that there is nothing
            return iter(())  # all that was done of it; how it goes on is told by `end_batches`
        self._offset = self._part_offset + sum(part["batches"] for part in self._ended)
        self._arrive()
        self._loaders.arrive()
        return batches

    def begin_step(self) -> None:
        """Count a batch."""
        self.step += 1
        self._offset += 1
        self._part_offset += 1

    @property
    def part(self) -> int:
        """Which of the loops over batches within the epoch this is, from 1."""
        return self._part

    def end_batches(self, part: int, *, exhausted: bool) -> None:
        """Be behind a loop over batches, whether it came to its end or was left.

        Args:
            part: which one of the epoch; one that is not the newest was left before.
            exhausted: whether the loader had no more.
        """
        if part == self._part and part > len(self._ended):
            self._end(exhausted=exhausted)

    def _end(self, *, exhausted: bool) -> None:
        """Note how a loop over batches ended: how many there were, and the random numbers behind it."""
        saved = self._saved.get("parts", [])
        if not self.epoch and self._ended:
            # Without epochs they would become many; what was drawn before the newest is drawn again as it comes.
            self._ended[-1].update(random={}, generators={})
        if self.passing_over and self._part <= len(saved):
            ended = {**saved[self._part - 1], "batches": self._part_offset}
            self._restore_random(ended["random"])
            self.tracked.rewind(ended["generators"])
        else:
            # It takes 60 µs, which a short epoch that has no other loop can do without.
            skips = self._is_the_only_part and exhausted
            ended = {} if skips else self._end_of_part(exhausted=exhausted)
        self._ended.append(ended)
        if self.passing_over and self._part == len(saved) == self._saved["part"]:
            self._arrive()  # it was cut behind the last of them
            self._loaders.arrive()

    def _end_of_part(self, *, exhausted: bool) -> dict[str, Any]:
        return {
            "batches": self._part_offset,
            "exhausted": exhausted,
            "random": random_state(self._keeps_random),
            "generators": self.tracked.generators(),
        }

    def content(self) -> dict[str, Any]:
        """Return the place in plain types and tensors, to be kept in a checkpoint."""
        return {
            "step": self.step,
            "epoch": self.epoch,
            "offset": self._offset,
            "part": self._part,
            "part_offset": self._part_offset,
            "parts": [{**part, "random": _plain(part["random"])} for part in self._ended if part],
            "loop": self._loop,
            "steps_by_log": self.steps_by_log,
            "random": plain_random_state(random_state(self._keeps_random)),
            "epoch_random": _plain(self._epoch_random),
            "epoch_generators": self._epoch_generators,
            "loaders_random": self._loaders.content(),
            "compute": compute_state(),
            "world_size": self._world_size,
        }

    def _begin_the_epoch_again(self) -> None:
        self._restore("epoch_random")
        self.tracked.rewind(self._saved.pop("epoch_generators", {}))

    def _arrive(self) -> None:
        self.passing_over = False
        self._restore("random")
        self.tracked.arrive()

    def _note_random(self) -> None:
        self._epoch_random = random_state(self._keeps_random)
        self._epoch_generators = self.tracked.generators()

    def _restore(self, name: str) -> None:
        self._restore_random(self._saved.pop(name, {}))

    def _restore_random(self, state: Mapping[str, Any]) -> None:
        restore_random_state({name: each for name, each in state.items() if name in self._keeps_random})


def _plain(state: Mapping[str, Any]) -> dict[str, Any]:
    # What came from a checkpoint is plain already.
    return plain_random_state(state) if any(isinstance(each, tuple) for each in state.values()) else dict(state)


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
