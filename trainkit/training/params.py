"""The parameters of a job, as training code reads them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from trainkit.errors import OptionError

#: What changes in every group of a tracked optimizer when it is set on the job.
FOLLOWED = ("lr", "weight_decay")


def check_followed(params: Mapping[str, Any]) -> None:
    """Check what reaches optimizers: anything odd would end the training.

    Raises:
        OptionError: not a finite number from 0 on.

    >>> check_followed({"lr": 0.1, "hidden": "many"})
    """
    for name in FOLLOWED:
        if name not in params:
            continue
        value = params[name]
        try:
            number = math.nan if isinstance(value, (bool, str)) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not (math.isfinite(number) and number >= 0):
            raise OptionError(f"{name}={value!r:.80} is not allowed: expected a finite number >= 0")


class Params(Mapping[str, Any]):
    """The parameters of a job as they are now; ``job.set`` changes them between two steps.

    >>> Params({"lr": 0.1}).lr
    0.1
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_values"][name]
        except KeyError:
            raise AttributeError(f"no parameter {name!r}; parameters: {', '.join(self) or 'none'}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Params({self._values!r})"

    def update(self, values: Mapping[str, Any]) -> None:
        """Change or add parameters; for the run, between two steps."""
        self._values.update(values)
