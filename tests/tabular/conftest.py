"""An in-memory run, which does what training on a table asks of a run and remembers what it was told."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest


class MemoryRun:
    """Stands in for :class:`trainkit.training.run.Run` where no job is needed."""

    device = "cpu"
    world_size = 1

    def __init__(self) -> None:
        self.params: dict[str, Any] = {}
        self.warnings: list[str] = []
        self.messages: list[str] = []
        self.logged: list[dict[str, Any]] = []
        self.tracked: dict[str, Any] = {}
        self.ended: str | None = None
        self.step = 0
        self._epoch = 0

    def update_params(self, **params: Any) -> None:
        self.params.update(params)

    def phase(self, name: str) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def message(self, text: str) -> None:
        self.messages.append(text)

    def track(self, **objects: Any) -> None:
        self.tracked.update(objects)

    def best(self, metric: str, mode: str) -> None: ...

    def log(self, **values: Any) -> None:
        self.logged.append({name: float(value) for name, value in values.items()})

    def end_early(self, reason: str, message: str) -> None:
        self.ended = reason

    def epochs(self, count: int) -> Iterator[int]:
        for self._epoch in range(count):
            if self.ended:
                return
            yield self._epoch

    def batches(self, feeder: Any) -> Iterator[Any]:
        feeder.set_epoch(self._epoch)
        for batch in feeder:
            self.step += 1
            yield batch


@pytest.fixture
def run() -> MemoryRun:
    """A run that keeps everything in memory."""
    return MemoryRun()
