"""Who of several ranks gets which rows, whatever the loader."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, IterableDataset, Sampler

from trainkit.errors import OptionError
from trainkit.ranks.group import Ranks
from trainkit.training.sharding import shard

ROWS = 37


class Told(Ranks):
    """A rank whose others say the same, or what rank 0 has said before."""

    def __init__(self, rank: int, world_size: int, said: list[Any]) -> None:
        self.rank, self.world_size = rank, world_size
        self._said, self._next = said, 0

    def gather(self, value: Any) -> list[Any]:
        if self.rank == 0:
            self._said.append(value)
        first = self._said[self._next]
        self._next += 1
        return [first, *[value] * (self.world_size - 1)]


def dealt(make: Any, world_size: int) -> list[list[list[int]]]:
    """The batches of each rank, by rank; each has its own loader and, but for rank 0, other random numbers."""
    said: list[Any] = []
    found = []
    for rank in range(world_size):
        torch.manual_seed(rank)
        own = shard(make(), Told(rank, world_size, said))
        found.append([torch.as_tensor(batch).reshape(-1).tolist() for batch in own])
    return found


def together(found: list[list[list[int]]]) -> list[int]:
    """All rows in the order in which the ranks make them."""
    return [row for step in zip(*found, strict=True) for batch in step for row in batch]


class ByLength(Sampler[list[int]]):
    """Batches of rows that belong together, of different sizes."""

    def __iter__(self) -> Iterator[list[int]]:
        return iter([[0, 1, 2], [3, 4], [5, 6, 7, 8], [9]])

    def __len__(self) -> int:
        return 4


class Endless(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(20))


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(ROWS))


LOADERS = {
    "in order": lambda: DataLoader(range(ROWS), 4),
    "shuffled": lambda: DataLoader(range(ROWS), 4, shuffle=True),
    "shuffled by its own generator": lambda: DataLoader(
        range(ROWS), 4, shuffle=True, generator=torch.Generator().manual_seed(5)
    ),
    "a batch sampler": lambda: DataLoader(
        range(ROWS), batch_sampler=BatchSampler(range(ROWS), 4, drop_last=False)
    ),
    "without batches": lambda: DataLoader(range(ROWS), batch_size=None),
    "a stream": lambda: DataLoader(Stream(), 4),
}


@pytest.mark.parametrize("world_size", [2, 3, 7])
@pytest.mark.parametrize("name", LOADERS)
def test_every_row_is_made_and_each_rank_makes_as_many_steps(name: str, world_size: int) -> None:
    """No rank waits for one that has none left; only the last step may repeat a row."""
    found = dealt(LOADERS[name], world_size)
    rows = together(found)
    assert set(rows) == set(range(ROWS))
    last = sum(len(batches[-1]) for batches in found)
    assert len(set(rows[:-last])) == len(rows) - last, "none twice before the last step"
    assert all(batch for batches in found for batch in batches)


def test_two_ranks_make_the_steps_of_one_with_twice_the_batch() -> None:
    """Shuffled, and each rank with other random numbers of its own: the order is that of rank 0."""
    torch.manual_seed(0)
    one = [batch.tolist() for batch in DataLoader(range(32), 8, shuffle=True)]
    found = dealt(lambda: DataLoader(range(32), 4, shuffle=True), 2)
    assert [a + b for a, b in zip(*found, strict=True)] == one


def test_fewer_rows_than_ranks_leave_no_rank_without() -> None:
    """One row each, and one that two of them make."""
    assert dealt(lambda: DataLoader(range(3), 1), 4) == [[[0]], [[1]], [[2]], [[0]]]
    assert dealt(lambda: DataLoader(range(3), 8), 2) == [[[0, 2]], [[1]]]


def test_drop_last_drops_what_is_not_whole_all_round() -> None:
    """As one rank with the combined batch does."""
    found = dealt(lambda: DataLoader(range(37), 4, drop_last=True), 2)
    assert together(found) == list(range(32))


def test_batches_of_a_sampler_of_ones_own_stay_whole() -> None:
    """Rows of one length are not mixed with those of another."""
    found = dealt(lambda: DataLoader(range(10), batch_sampler=ByLength()), 2)
    assert found == [[[0, 1, 2], [5, 6, 7, 8]], [[3, 4], [9]]]
    assert dealt(lambda: DataLoader(range(10), batch_sampler=ByLength()), 3)[2] == [[5, 6, 7, 8], [9]]


def test_a_sampler_that_does_not_tell_its_length_is_not_drawn_beforehand() -> None:
    """It may have no end."""
    found = dealt(lambda: DataLoader(range(20), 4, sampler=Endless()), 2)
    assert found == [
        [[0, 1, 2, 3], [8, 9, 10, 11], [16, 17, 18, 19]],
        [[4, 5, 6, 7], [12, 13, 14, 15], [16, 17, 18, 19]],
    ]


def test_who_has_dealt_already_is_left_alone() -> None:
    """A DistributedSampler stays; a dataset's `shard(num_shards, index)` is not called."""

    class LikeDatasets:
        def __init__(self, rows: range) -> None:
            self.rows = rows

        def shard(self, num_shards: int, index: int) -> Any:
            raise AssertionError("nobody asked for it")

        def __iter__(self) -> Iterator[torch.Tensor]:
            return (torch.tensor([row]) for row in self.rows)

    sampler = DistributedSampler(range(8), num_replicas=2, rank=1, shuffle=False)
    loader = DataLoader(range(8), 2, sampler=sampler)
    assert shard(loader, Told(1, 2, [2])) is loader
    assert dealt(lambda: LikeDatasets(range(4)), 2) == [[[0], [2]], [[1], [3]]]


def test_ranks_with_different_numbers_of_batches_are_refused() -> None:
    """They would wait for each other for ever."""
    with pytest.raises(OptionError, match="the same steps, and rank 0 has 3, rank 1 has 2 batches"):
        shard(DataLoader(range(16), 4), Told(1, 2, [3]))
