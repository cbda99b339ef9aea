"""What was logged, on its way from the training thread into the metrics file and the record."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any

from trainkit.errors import text_of
from trainkit.files.record import Best, Record
from trainkit.files.scalars import MOST, OnDevice, described, fetched
from trainkit.files.streams import Appender

#: What may wait in memory for a disk that takes nothing; beyond it, metrics are dropped and counted.
_LEFT_BYTES = 50_000_000
#: A loop that does nothing but log must not keep the recorder from its other duties.
LINES_AT_ONCE = 5000
#: What a run begins with tells what is usual for it; of later lines those are told on that a round ends with.
_TOLD_ONE_BY_ONE = 10
#: Step, epoch, time, and the values as :func:`~trainkit.files.scalars.taken` gives them.
Logged = tuple[int, int, float, Mapping[str, Any]]
#: Keys of a metrics line that trainkit sets itself.
RESERVED = ("attempt", "step", "time")


class MetricsWriter:
    """Writes what was logged, and tells the record what it comes to.

    Args:
        stream: the metrics file.
        record: gets the newest values and the best one.
        warn: told of what cannot be written as it was logged.
    """

    def __init__(self, stream: Appender, record: Record, *, warn: Callable[[str], None]) -> None:
        self._stream = stream
        self.record = record
        self._warn = warn
        #: What was logged; appended by the training thread, emptied by the recorder's.
        self.pending: deque[Logged] = deque()
        self.watched: tuple[str, str] = ("val_loss", "min")
        #: Told ``(step, numbers, non_finite)`` of what was logged; ``non_finite`` are metrics with their steps.
        self.on_metrics: Callable[[int, Mapping[str, float], Mapping[str, int]], None] = lambda *heard: None
        #: How many lines could not be kept, for a disk that takes nothing.
        self.dropped = 0
        self._lines_told = 0

    @property
    def waiting(self) -> bool:
        """Whether something is not written yet."""
        return bool(self.pending or self._stream.left_bytes)

    def drain(self) -> None:
        """Write up to :data:`LINES_AT_ONCE` lines of what was logged.

        Raises:
            StoreError: not all could be written; what is left goes first the next time.
        """
        count = min(len(self.pending), LINES_AT_ONCE)
        take = self.pending.popleft
        taken = self._sound([take() for _ in range(count)])
        alone = min(max(0, _TOLD_ONE_BY_ONE - self._lines_told), len(taken))
        self._lines_told += alone
        for line in taken[:alone]:
            self._tell([line], _newest([line]))
        newest = _newest(taken)
        self._note(taken, newest)
        attempt = self.record.attempt
        lines = [
            {"attempt": attempt, "epoch": epoch, "step": step, "time": logged_at, **values}
            for step, epoch, logged_at, values in taken
        ]
        if self._stream.left_bytes > _LEFT_BYTES:
            self.dropped += len(lines)
            lines = []
        if lines:
            self._stream.append(lines)
        else:
            self._stream.flush()
        if rest := taken[alone:]:
            self._tell(rest, newest if not alone else _newest(rest))

    def _note(self, taken: list[Logged], newest: dict[str, float]) -> None:
        """Put the newest values, and the best one, into the record."""
        if not newest:
            return
        # A new dict: others may be encoding the old one.
        self.record.metrics = {**self.record.metrics, **newest}
        self.record.loss = newest.get("loss", self.record.loss)
        metric, mode = self.watched
        if metric in newest:
            for step, epoch, _, values in taken:
                if metric in values:
                    self._watch(metric, mode, values[metric], step, epoch)

    def _tell(self, taken: list[Logged], newest: dict[str, float]) -> None:
        """Tell of lines, as if they were one, and where a metric was not finite in them for the first time."""
        non_finite: dict[str, int] = {}
        if not math.isfinite(sum(_numbers_of(taken))):
            for step, _, _, values in taken:
                for name, number in values.items():
                    if not math.isfinite(number):
                        non_finite.setdefault(name, step)
        try:
            self.on_metrics(taken[-1][0], newest, non_finite)
        except Exception as error:  # noqa: BLE001 - what judges the metrics must not keep them from being written
            fault = f"{type(error).__name__}: {text_of(error)}"
            self._warn(
                f"a fault in trainkit while judging metrics: {fault}. The training goes on; please report this"
            )

    def sync(self) -> None:
        """Return when what was written is on the disk.

        Raises:
            StoreError: the disk does not say so.
        """
        self._stream.sync()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _sound(self, taken: list[Logged]) -> list[Logged]:
        """Have nothing but floats in the lines, under names of their own, and no line without any."""
        if not set(map(type, _numbers_of(taken))) <= {float}:
            taken = self._read_out(taken)
        names = set(chain.from_iterable([line[3] for line in taken]))
        if not names.isdisjoint(RESERVED):
            taken = [(*line[:3], self._renamed(line[3])) for line in taken]
        return [line for line in taken if line[3]]

    def _read_out(self, taken: list[Logged]) -> list[Logged]:
        """Turn everything that was logged into floats; what is on a device is fetched all at once."""
        on_device = fetched(
            value for *_, values in taken for value in values.values() if isinstance(value, OnDevice)
        )
        return [
            (step, epoch, logged_at, self._numbers(values, on_device)) for step, epoch, logged_at, values in taken
        ]

    def _numbers(self, values: Mapping[str, Any], on_device: Mapping[int, Any]) -> dict[str, float]:
        numbers: dict[str, float] = {}
        for name, value in values.items():
            try:
                numbers[name] = float(on_device.get(id(value), value))
            except BaseException:  # noqa: BLE001 - a class of the user's, which may raise anything
                self._warn(
                    f"run.log({name}=...) got {described(value)}; it was left out. "
                    "Log a float or a tensor of one element."
                )
        return numbers

    def _renamed(self, values: Mapping[str, float]) -> dict[str, float]:
        """Give names that the metrics file needs for itself an underscore."""
        for name in values.keys() & set(RESERVED):
            self._warn(
                f"run.log({name}=...): the name is taken in the metrics file; it is written as {name + '_'!r}"
            )
        return {f"{name}_" if name in RESERVED else name: value for name, value in values.items()}

    def _watch(self, metric: str, mode: str, value: float, step: int, epoch: int) -> None:
        best = self.record.best
        better = best is None or (value < best.value if mode == "min" else value > best.value)
        if better and value == value:
            self.record.best = Best(metric=metric, value=value, step=step, epoch=epoch, mode=mode)


def as_recorded(line: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a line of a metrics stream without what no recorder writes; None if it has no step.

    >>> as_recorded({"step": 2, "loss": 0.5, "odd": [1]})
    {'attempt': 1, 'step': 2, 'loss': 0.5}
    >>> as_recorded({"step": "two", "loss": 0.5})
    """
    numbers = {
        name: value
        for name, value in {"attempt": 1, **line}.items()
        if type(value) is float or (type(value) is int and abs(value) <= MOST)
    }
    return numbers if type(numbers.get("attempt")) is type(numbers.get("step")) is int else None


# While lines are looked at the training may have to wait for its turn: so it is done in few and quick passes.


def _numbers_of(taken: list[Logged]) -> Iterable[Any]:
    return chain.from_iterable([line[3].values() for line in taken])


def _newest(taken: list[Logged]) -> dict[str, float]:
    newest: dict[str, float] = {}
    for line in taken:
        newest.update(line[3])
    return newest
