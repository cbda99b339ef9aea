"""The points of a metrics stream, read as it grows, and thinned to what a chart can show.

Only files are read, so a chart serves every runner and every process.  Points are kept as numpy arrays: a
stream of a million lines takes 30 MB and under a second.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from tsdownsample import MinMaxLTTBDownsampler

from trainkit.recorder import RESERVED

Floats = NDArray[np.float64]

#: Bytes that are decoded at once: enough for speed, little enough to let other threads run in between.
CHUNK_BYTES = 4 << 20
_NOT_METRICS = frozenset({*RESERVED, "epoch"})
_decoder = msgspec.json.Decoder(dict[str, Any])


class Points:
    """The points of one metric, in the order of their steps, one per step."""

    def __init__(self) -> None:
        self._x: Floats = np.empty(256)
        self._y: Floats = np.empty(256)
        self.count = 0

    @property
    def x(self) -> Floats:
        """The steps, float64, (count,)."""
        return self._x[: self.count]

    @property
    def y(self) -> Floats:
        """The values, float64, (count,)."""
        return self._y[: self.count]

    def extend(self, x: Floats, y: Floats) -> bool:
        """Append points; where a step comes again, the newest value counts.

        Returns:
            Whether they only follow what was there, so that who has the older points needs only these.
        """
        in_order = not self.count or not len(x) or x[0] > self.x[-1]
        if not in_order or (len(x) > 1 and np.any(np.diff(x) <= 0)):
            x, y = np.concatenate([self.x, x]), np.concatenate([self.y, y])
            order = np.argsort(x, kind="stable")
            x, y = x[order], y[order]
            last_of_its_step = np.append(x[1:] != x[:-1], True)
            x, y = x[last_of_its_step], y[last_of_its_step]
            self.count = 0
        total = self.count + len(x)
        if total > len(self._x):
            size = max(total, 2 * len(self._x))
            self._x = np.concatenate([self.x, np.empty(size - self.count)])
            self._y = np.concatenate([self.y, np.empty(size - self.count)])
        self._x[self.count : total] = x
        self._y[self.count : total] = y
        self.count = total
        return in_order

    def cut(self, step: float) -> None:
        """Drop the points from a step on: a resumed attempt repeats them."""
        self.count = int(np.searchsorted(self.x, step))

    def between(self, low: float, high: float) -> slice:
        """Return which points lie in a range of steps, with one neighbour on each side."""
        first = int(np.searchsorted(self.x, low)) - 1
        last = int(np.searchsorted(self.x, high, side="right")) + 1
        return slice(max(first, 0), min(last, self.count))


class History:
    """All metrics of one job.

    Attributes:
        metrics: by name, in the order in which they were first logged.
        generation: rises when points changed that were there already, after a resume say.
        begins: the first step of each attempt but the first one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics: dict[str, Points] = {}
        self.generation = 0
        self.begins: dict[int, float] = {}
        self._offset = 0
        self._attempt = 0

    def read(self) -> bool:
        """Read what the stream has got since the last call; return whether there was anything."""
        try:
            with open(self.path, "rb") as file:
                file.seek(0, 2)
                if file.tell() < self._offset:  # another job's stream of the same name
                    self.metrics, self.begins, self._offset, self._attempt = {}, {}, 0, 0
                    self.generation += 1
                file.seek(self._offset)
                found = False
                while data := file.read(CHUNK_BYTES):
                    end = data.rfind(b"\n") + 1
                    if not end:
                        break
                    file.seek(self._offset + end)
                    self._offset += end
                    self._take(_decoded(data[:end]))
                    found = True
                return found
        except FileNotFoundError:
            return False

    def _take(self, rows: list[dict[str, Any]]) -> None:
        first = 0
        for index, row in enumerate(rows):
            attempt = row.get("attempt", 1)
            if attempt != self._attempt:
                self._append(rows[first:index])
                first = index
                if self._attempt:
                    self._begin_again(attempt, row.get("step", 0))
                self._attempt = attempt
        self._append(rows[first:])

    def _begin_again(self, attempt: int, step: float) -> None:
        self.begins[attempt] = step
        for points in self.metrics.values():
            points.cut(step)
        self.generation += 1

    def _append(self, rows: list[dict[str, Any]]) -> None:
        names = dict.fromkeys(name for row in rows for name in row)
        for name in names:
            if name in _NOT_METRICS:
                continue
            having = [row for row in rows if name in row]
            x = _floats(row.get("step", 0) for row in having)
            y = _floats(row[name] for row in having)
            if not self.metrics.setdefault(name, Points()).extend(x, y):
                self.generation += 1


def thinned(x: Floats, y: Floats, count: int) -> tuple[Floats, Floats]:
    """Return at most about ``count`` points that look like all of them: no peak is lost.

    Values that are no finite number cannot be drawn and are left out.
    """
    finite = np.isfinite(y)
    if not finite.all():
        x, y = x[finite], y[finite]
    if len(x) <= count:
        return x, y
    downsampler: Any = MinMaxLTTBDownsampler
    chosen = downsampler().downsample(np.ascontiguousarray(x), np.ascontiguousarray(y), n_out=count)
    return x[chosen], y[chosen]


def _decoded(data: bytes) -> list[dict[str, Any]]:
    try:
        return _decoder.decode_lines(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        rows = []  # a line torn by a kill is among them: one by one
        for line in data.splitlines():
            try:
                rows.append(_decoder.decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
        return rows


def _floats(values: Iterable[Any]) -> Floats:
    taken = list(values)
    try:
        return np.array(taken, dtype=np.float64)  # also reads "NaN" and "Infinity"
    except (TypeError, ValueError):
        return np.array([_float(value) for value in taken], dtype=np.float64)


def _float(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")
