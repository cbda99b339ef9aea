"""From a table in memory to batches: permuted once per epoch into a buffer, then handed out as views.

A DataLoader would cost a third to two thirds of a small network's speed here.
"""

from __future__ import annotations

from collections.abc import Iterator

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
