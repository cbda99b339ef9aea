"""How many steps a loop over epochs will make, as the lengths of its loaders tell."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from trainkit.resuming.states import part_of


class Extent:
    """Adds up what is ahead, epoch by epoch: an epoch may have several loops over batches, or not always the same.

    A length is believed until an epoch has had another number of steps; then the steps of the epochs count.

    >>> extent = Extent()
    >>> extent.begin_epoch(left=2)
    >>> extent.begin_batches(range(10))  # three epochs of ten, as far as is known
    30
    >>> extent.begin_batches(range(4))
    42
    >>> extent.begin_epoch(left=1, made=14)
    >>> extent.begin_batches(range(10))
    28
    >>> extent.begin_epoch(left=1, made=4)  # it ended early
    >>> extent.begin_batches(range(10))
    18
    """

    def __init__(self) -> None:
        self.begin_loop()

    def begin_loop(self) -> None:
        """Know nothing of earlier loops: their epochs are others."""
        self._left = self._now = 0
        self._earlier: list[int] = []
        self._endless = False
        self._believed = True

    def begin_epoch(self, left: int, made: int = 0) -> None:
        """Come to the top of an epoch.

        Args:
            left: how many epochs the loop has after this one.
            made: how many steps the epoch before had.
        """
        if self._now:
            self._earlier.append(made)
            self._believed = self._believed and made == self._now
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
        now = max(self._now, usual) if self._believed else usual
        ahead = round(now + self._left * usual)
        return ahead if ahead < _ENDLESS else None


def why_no_batch(loader: Any) -> str:
    """Return why a loader most likely gave no batch, and what to do."""
    if hasattr(type(loader), "__next__"):
        return (
            "an iterator can be used only once. Pass something that starts again in each epoch, such as a "
            "DataLoader or a list, or create the generator within the epoch"
        )
    rows, size = length(part_of(loader, "dataset")), part_of(loader, "batch_size")
    if part_of(loader, "drop_last") is True and isinstance(size, int) and rows and rows < size:
        return (
            f"drop_last=True drops the only batch, which has {rows} of batch_size={size} rows. "
            "Use drop_last=False, or a smaller batch_size"
        )
    return "check that the data, and what selects its rows, are not empty"


#: More steps than any run makes: a loader that tells of so many tells nothing.
_ENDLESS = 2**53


def length(loader: Iterable[Any]) -> int | None:
    """Return how many batches a loader has, if it has a length."""
    try:
        return len(loader)  # type: ignore[arg-type]
    except Exception:  # noqa: BLE001 - a generator, an endless stream, or a class of the user's that may raise anything
        return None
