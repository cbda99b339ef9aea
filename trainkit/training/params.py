"""The parameters of a job, as training code reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

#: What changes in every group of a tracked optimizer when it is set on the job.
FOLLOWED = ("lr", "weight_decay")


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
