"""How many steps a loop over epochs will make, as the lengths of its loaders tell."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class Extent:
    """Adds up what is ahead, epoch by epoch: an epoch may have several loops over batches, or not always the same.

    >>> extent = Extent()
    >>> extent.begin_epoch(left=2)
    >>> extent.begin_batches(range(10))  # three epochs of ten, as far as is known
    30
    >>> extent.begin_batches(range(4))
    42
    >>> extent.begin_epoch(left=1)
    >>> extent.begin_batches(range(10))
    28
    """

    def __init__(self) -> None:
        self.begin_loop()

    def begin_loop(self) -> None:
        """Know nothing of earlier loops: their epochs are others."""
        self._left = self._now = 0
        self._earlier: list[int] = []
        self._endless = False

    def begin_epoch(self, left: int) -> None:
        """Be at the top of an epoch.

        Args:
            left: how many epochs the loop has after this one.
        """
        if self._now:
            self._earlier.append(self._now)
        self._left, self._now = left, 0

    def begin_batches(self, loader: Iterable[Any]) -> int | None:
        """Come to a loader.

        Returns:
            How many steps this epoch and those that are left have, if each loader of the loop tells its length.
        """
        count = length(loader)
        self._endless = self._endless or count is None
        self._now += count or 0
        if self._endless:
            return None
        usual = sum(self._earlier) / len(self._earlier) if self._earlier else self._now
        return round(max(self._now, usual) + self._left * usual)


def length(loader: Iterable[Any]) -> int | None:
    """Return how many batches a loader has, if it tells."""
    try:
        return len(loader)  # type: ignore[arg-type]
    except TypeError:  # a generator, or a loader of an endless stream
        return None
