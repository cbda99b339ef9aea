"""Early stopping: a run ends when it does not get better any more."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from trainkit.files.scalars import number

#: Step, epoch from 1 (0 without epochs), Unix seconds, values.
Line = tuple[int, int, float, Mapping[str, Any]]


class EarlyStopping:
    """Knows the best epoch so far, and when to give up.

    Args:
        patience: how many epochs may pass without improvement.
        mode: ``"min"`` or ``"max"``.

    >>> stopping = EarlyStopping(patience=2)
    >>> [stopping.is_best(loss, epoch) for epoch, loss in enumerate([3.0, 2.0, 2.5])]
    [True, True, False]
    >>> stopping.is_over(2), stopping.is_over(3)
    (False, True)
    """

    def __init__(self, patience: int, mode: str = "min") -> None:
        self.patience, self.mode = patience, mode
        self.best_value, self.best_epoch = math.inf, -1

    def is_best(self, value: float, epoch: int) -> bool:
        """Take note of an epoch's value, and tell whether it is the best."""
        lower = value if self.mode == "min" else -value
        if not lower < self.best_value:
            return False
        self.best_value, self.best_epoch = lower, epoch
        return True

    def is_over(self, epoch: int) -> bool:
        """Tell whether the last improvement is ``patience`` epochs ago."""
        return epoch - self.best_epoch >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"best_loss": self.best_value, "best_epoch": self.best_epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave."""
        self.best_value, self.best_epoch = state["best_loss"], state["best_epoch"]


class Patience:
    """Stops a user's loop early: stands where logged lines go to the recorder, and looks at one metric of them.

    The last value in an epoch is the epoch's; where there are no epochs, every value counts as one.  It is decided
    in the training thread, so that the same run ends at the same step.

    Args:
        put: takes the lines.
        patience: how many epochs may pass without improvement.
        watched: tells the metric and its mode.
        end: ends the run after this step; called with what to tell.
    """

    def __init__(
        self,
        put: Callable[[Line], object],
        patience: int,
        *,
        watched: Callable[[], tuple[str, str]],
        end: Callable[[str], None],
    ) -> None:
        self._put, self._watched, self._end = put, watched, end
        self._stopping = EarlyStopping(patience)
        self._last: Any = None
        self._values = 0

    def put(self, line: Line) -> None:
        """Pass a line on."""
        self._put(line)
        metric, _ = self._watched()
        if metric in line[3]:
            self._last = line[3][metric]
            if line[1] == 0:
                self._judge(self._values, "value")

    def end_epoch(self, epoch: int) -> str | None:
        """Judge an epoch that is over, and end the run if it was one too many.

        Args:
            epoch: from 0.

        Returns:
            What is wrong, if nothing can come of this: the metric is never logged.
        """
        if self._last is not None:
            self._judge(epoch, "epoch")
        patience, (metric, _) = self._stopping.patience, self._watched()
        if self._values == 0 and epoch + 1 >= patience:
            return (
                f"patience={patience} looks at {metric!r}, which was not logged in {epoch + 1} epochs, so it ends "
                "nothing. Log it, or name the metric to look at: run.best('loss') or run.best('accuracy', 'max')"
            )
        return None

    def _judge(self, at: int, what: str) -> None:
        metric, self._stopping.mode = self._watched()
        value, self._last = number(self._last), None
        if value is None:
            return  # run.log leaves it out, with a warning
        self._values += 1
        if not self._stopping.is_best(value, at) and self._stopping.is_over(at):
            self._end(f"{metric} has not improved since {what} {self._stopping.best_epoch + 1}")

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {**self._stopping.state_dict(), "last": number(self._last), "values": self._values}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave."""
        self._stopping.load_state_dict(state)
        self._last, self._values = state["last"], state["values"]
