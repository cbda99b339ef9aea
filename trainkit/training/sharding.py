"""Who of several ranks gets which batches of a loader.

A step of all ranks takes as many batches as there are ranks, in the loader's own order: rank 0 the first, rank
1 the second.  Whatever the number of ranks, the rows come in the same order; two ranks make the steps that one
makes with batches of twice the size.  The last step of an epoch, where not enough is left for whole batches
all round, is dealt row by row where the loader's sampler tells the rows, so that no rank is left without; ranks
with a row less then count as much as the others.  Batches that a sampler of the user's has put together stay
whole.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar, cast

from trainkit.errors import OptionError
from trainkit.ranks.group import Ranks
from trainkit.resuming.determinism import random_state, restore_random_state
from trainkit.training.extent import length

Batch = TypeVar("Batch")


def shard(loader: Iterable[Batch], ranks: Ranks) -> Iterable[Batch]:
    """Return this rank's part of a loader's batches.

    Args:
        loader: a ``DataLoader``, of which only the rows of this rank are loaded; an object that deals itself,
            by a method ``share_of_rank(rank, world_size)``; or any iterable that gives the same batches on every
            rank.
        ranks: all of them come here together.

    Raises:
        OptionError: the ranks would not make the same number of steps, so that some would wait for ever.
    """
    if ranks.world_size == 1:
        return loader
    own = _share(loader, ranks)
    lengths = ranks.gather(length(own))
    if len(set(lengths)) > 1:
        told = ", ".join(f"rank {rank} has {count}" for rank, count in enumerate(lengths))
        raise OptionError(
            f"every rank has to make the same steps, and {told} batches; give each the same loader, which "
            "run.batches divides, or one with a DistributedSampler"
        )
    return own


def _share(loader: Iterable[Batch], ranks: Ranks) -> Iterable[Batch]:
    if callable(deal := getattr(loader, "share_of_rank", None)):
        own: Iterable[Batch] = deal(ranks.rank, ranks.world_size)
        return own
    data = sys.modules.get("torch.utils.data")
    if data is None or not isinstance(loader, data.DataLoader):
        return _Dealt(loader, ranks)
    if isinstance(loader.sampler, data.DistributedSampler):
        return cast("Iterable[Batch]", loader)  # somebody has dealt already
    batches = loader.batch_sampler
    if isinstance(loader.dataset, data.IterableDataset) or batches is None or length(batches) is None:
        return _Dealt(loader, ranks)  # what may have no end cannot be drawn beforehand
    return cast("Iterable[Batch]", _with_batches_of(loader, ranks))


class _Dealt:
    """Every rank goes through all batches and keeps its own."""

    def __init__(self, loader: Iterable[Any], ranks: Ranks) -> None:
        self._loader = loader
        self._ranks = ranks

    def __len__(self) -> int:
        return -(-len(self._loader) // self._ranks.world_size)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        rank, size = self._ranks.rank, self._ranks.world_size
        group: list[Any] = []
        for batch in self._loader:
            group.append(batch)
            if len(group) == size:
                yield group[rank]
                group = []
        if group:
            yield group[rank % len(group)]  # a batch twice, rather than a rank for which the others wait for ever


class _RowsOfRank:
    """The batch sampler of one rank: draws the order of the rows as all do, and deals it."""

    def __init__(self, loader: Any, ranks: Ranks) -> None:
        self._loader = loader
        self._ranks = ranks
        # Of a sampler of the user's a batch may be of rows that belong together, of one length say.
        self._own_batches = type(loader.batch_sampler) is not sys.modules["torch.utils.data"].BatchSampler
        self._whole = bool(
            getattr(loader, "drop_last", False) or getattr(loader.batch_sampler, "drop_last", False)
        )

    def __len__(self) -> int:
        count, size = len(self._loader.batch_sampler), self._ranks.world_size
        return count // size if self._whole else -(-count // size)

    def __iter__(self) -> Iterator[list[Any]]:
        rank, size = self._ranks.rank, self._ranks.world_size
        batches = self._order()
        for first in range(0, len(batches), size):
            group = batches[first : first + size]
            if len(group) == size and (self._own_batches or len({len(batch) for batch in group}) == 1):
                yield list(group[rank])
            elif self._own_batches and not self._whole:
                yield list(group[rank % len(group)])  # twice, as in _Dealt
            elif not self._whole:
                rows = [row for batch in group for row in batch]
                yield rows[rank::size] or [rows[rank % len(rows)]]

    def _order(self) -> list[Any]:
        """All batches of an epoch, drawn on every rank with the random numbers of rank 0."""
        generators = [
            getattr(part, "generator", None) for part in (self._loader.sampler, self._loader.batch_sampler)
        ]
        own = [each for each in generators if each is not None]
        before = random_state()
        shared, states = self._ranks.gather((before, [each.get_state() for each in own]))[0]
        for generator, state in zip(own, states, strict=True):
            generator.set_state(state)
        if self._ranks.rank == 0:
            return list(self._loader.batch_sampler)
        restore_random_state(shared)
        try:
            return list(self._loader.batch_sampler)
        finally:
            restore_random_state(before)


def _with_batches_of(loader: Any, ranks: Ranks) -> Any:
    """A copy of a DataLoader that loads the rows of one rank only.  Made once, as its workers may persist."""
    made = getattr(loader, "_trainkit_shard", None)
    if made is None:
        made = copy.copy(loader)
        # DataLoader forbids this for good reason where the loader is in use; the copy is not yet.
        object.__setattr__(made, "batch_sampler", _RowsOfRank(loader, ranks))
        object.__setattr__(made, "_iterator", None)
        object.__setattr__(loader, "_trainkit_shard", made)
    return made
