"""From a table in memory to batches: permuted once per epoch into a buffer, then handed out as views.

A DataLoader would cost a third to two thirds of a small network's speed here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from trainkit.tabular.features import UNSEEN

Batch = tuple[Tensor, Tensor, Tensor]


class Batches:
    """Shuffled batches of the training rows; the same order for the same seed and epoch.

    In each epoch a few values are hidden as if they were missing, so that the network learns to do
    without any of them: new rows will have missing values and unseen words where training had none.

    Args:
        numbers: float32, (rows, numeric features), NaN where missing.
        categories: int64, (rows, categories).
        targets: (rows,).
        batch_size: rows per batch; the last one may be smaller.
        seed: of order and hiding.
        hidden_share: how many of the values are hidden.

    The batches are views of one buffer: they change with :meth:`set_epoch`.

    Attributes:
        own_share: which part of the rows of a batch this rank got last.
    """

    def __init__(
        self,
        numbers: Tensor,
        categories: Tensor,
        targets: Tensor,
        *,
        batch_size: int,
        seed: int,
        hidden_share: float = 0.0,
    ) -> None:
        self._rows = (numbers, categories, targets)
        self._buffers = tuple(torch.empty_like(rows) for rows in self._rows)
        self._views: list[Batch] = list(
            zip(*(torch.split(buffer, batch_size) for buffer in self._buffers), strict=True)
        )
        self._seed = seed
        self._hidden_share = hidden_share
        self.own_share = 1.0
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Put the rows into the order of an epoch (from 0)."""
        generator = torch.Generator().manual_seed((self._seed * 1_000_003 + epoch) % 2**63)
        order = torch.randperm(len(self._rows[0]), generator=generator)
        for rows, buffer in zip(self._rows, self._buffers, strict=True):
            torch.index_select(rows, 0, order.to(rows.device), out=buffer)
        numbers, categories, _ = self._buffers
        for buffer, nothing in ((numbers, float("nan")), (categories, UNSEEN)):
            if self._hidden_share and buffer.numel():
                hidden = torch.rand(buffer.shape, generator=generator) < self._hidden_share
                buffer.masked_fill_(hidden.to(buffer.device), nothing)

    def __len__(self) -> int:
        return len(self._views)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._views)

    def share_of_rank(self, rank: int, world_size: int) -> Iterable[Batch]:
        """Return the parts of all batches that one of several ranks gets: what ``run.batches`` asks for.

        Each batch is divided, so that with any number of ranks the steps are the same.
        """
        return _Shard(self, rank, world_size)


class _Shard:
    """One rank's parts of the batches."""

    def __init__(self, batches: Batches, rank: int, world_size: int) -> None:
        self._batches, self._rank, self._world_size = batches, rank, world_size

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._batches:
            rows = len(batch[2])
            first, last = (rows * each // self._world_size for each in (self._rank, self._rank + 1))
            self._batches.own_share = (last - first) / rows
            # A rank without a row still has to make the step: with one that counts nothing.
            numbers, categories, targets = (each[first : max(last, first + 1)] for each in batch)
            yield numbers, categories, targets


def split(labels: Tensor, classes: int, fraction: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Choose training and validation rows.

    Args:
        labels: class indices, or zeros for regression, (rows,).
        classes: how many classes there are; each is split by itself, so that both parts hold all of them,
            except where a class has one row only, which is used for training.
        fraction: of the rows that validate; at least one row of each class, and not its last one.
        generator: on the CPU.

    Returns:
        Row numbers for training and for validation, both ascending.
    """
    validating = []
    for label in range(classes):
        members = torch.nonzero(labels == label).flatten()
        count = min(max(1, round(len(members) * fraction)), len(members) - 1)
        validating.append(members[torch.randperm(len(members), generator=generator)[: max(count, 0)]])
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[torch.cat(validating)] = True
    return torch.nonzero(~chosen).flatten(), torch.nonzero(chosen).flatten()
