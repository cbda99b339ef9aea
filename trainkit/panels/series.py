"""The points of a metrics stream, read as it grows, and thinned to what a chart can show.

Only files are read, so a chart serves every runner and every process.  Points are kept as numpy arrays.  A long
stream is drawn from a sample at first, and from all of it, with every peak, once it was read by the way; of a
metric no more than a million points are kept, the lowest and the highest of those that lie together.
"""

from __future__ import annotations

import math
import os
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tsdownsample import MinMaxLTTBDownsampler

from trainkit.errors import StoreError
from trainkit.files.opening import opened
from trainkit.files.streams import MOST_LINE_BYTES, skip_line
from trainkit.panels.lines import Floats, Lines

#: Bytes that are decoded at once: enough for speed, little enough to let other threads run in between.
CHUNK_BYTES = 1 << 20
#: A metric beyond so many points is thinned by half, so that no stream is too long for memory: these take 16 MB.
MOST_POINTS = 1_000_000
#: A stream beyond this size is sampled first, at so many places, and read by the way, for so long at a call.
SAMPLED_FROM_BYTES = 16 << 20
SAMPLES = 2000
CATCH_UP_S = 0.05
_SAMPLE_BYTES = 4096


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

    def thin(self) -> None:
        """Keep the lowest and the highest of every four points: half of them, and every peak."""
        body = (self.count - 1) // 4 * 4  # the last points stay as they are
        x, y = self._x[:body].reshape(-1, 4), self._y[:body].reshape(-1, 4)
        low = np.where(np.isfinite(y), y, np.inf).argmin(axis=1)
        high = np.where(np.isfinite(y), y, -np.inf).argmax(axis=1)
        chosen = np.stack([np.minimum(low, high), np.maximum(low, high)], axis=1)
        chosen[:, 1] += chosen[:, 0] == chosen[:, 1]  # where all are equal, or none is finite
        chosen[:, 0] -= chosen[:, 1] == 4
        np.minimum(chosen, 3, out=chosen)
        kept = (np.arange(len(x))[:, None], chosen)
        x, y = x[kept].ravel(), y[kept].ravel()
        rest = slice(body, self.count)
        self._x, self._y = np.concatenate([x, self._x[rest]]), np.concatenate([y, self._y[rest]])
        self.count = len(self._x)

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
        self._lines = Lines()
        self._offset = 0
        self._attempt = 0
        self._behind: History | None = None

    def read(self) -> bool:
        """Read what the stream has got since the last call; return whether there is anything new to draw."""
        try:
            with opened(self.path, "rb") as file:
                size = file.seek(0, os.SEEK_END)
                if size < self._offset:  # another job's stream of the same name
                    self._become(History(self.path))
                if not self._offset and size > SAMPLED_FROM_BYTES:
                    self._sample(file, size)
                found = self._go_on(file)
                return self._catch_up(file) or found
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise StoreError.about(error, self.path) from error

    @property
    def complete(self) -> bool:
        """Whether all lines were read, rather than a sample of them so far."""
        return self._behind is None

    def _go_on(self, file: BinaryIO, *, until: float = math.inf) -> bool:
        """Read from where the last call ended to the end, or until a time on the clock of ``time.monotonic``."""
        file.seek(self._offset)
        found = False
        while time.monotonic() < until and (data := file.read(CHUNK_BYTES)):
            end = data.rfind(b"\n") + 1
            if not end and len(data) == CHUNK_BYTES:  # a long line
                data += file.readline(MOST_LINE_BYTES)
                if len(data) >= MOST_LINE_BYTES and not data.endswith(b"\n"):
                    self._offset += len(data) + skip_line(file)
                    continue
                end = data.rfind(b"\n") + 1
            if not end:
                break
            self._offset += end
            file.seek(self._offset)
            self._take(data[:end])
            found = True
        return found

    def _sample(self, file: BinaryIO, size: int) -> None:
        """Read some lines at many places, and have another history read all of them little by little."""
        tail = size - CHUNK_BYTES
        parts = []
        for place in np.linspace(0, tail, SAMPLES, dtype=np.int64).tolist():
            file.seek(place)
            data = file.read(_SAMPLE_BYTES)
            first = data.find(b"\n") + 1 if place else 0
            parts.append(data[first : data.rfind(b"\n") + 1])
        self._take(b"".join(parts))
        file.seek(tail)
        self._offset = tail + file.read(CHUNK_BYTES).find(b"\n") + 1
        self._behind = History(self.path)

    def _catch_up(self, file: BinaryIO) -> bool:
        """Read some of what was only sampled; return whether all is read by now."""
        behind = self._behind
        if behind is None:
            return False
        behind._go_on(file, until=time.monotonic() + CATCH_UP_S)
        if behind._offset < self._offset:
            return False
        self._become(behind)
        return True

    def _become(self, other: History) -> None:
        self.metrics, self.begins, self._behind = other.metrics, other.begins, None
        self._offset, self._attempt = other._offset, other._attempt
        self.generation += 1

    def _take(self, data: bytes) -> None:
        table = self._lines.table(data)
        attempts = table.attempts
        bounds = [0, *(np.flatnonzero(np.diff(attempts)) + 1).tolist(), len(attempts)]
        for first, last in pairwise(bounds):
            if first == last:
                continue  # not one line could be read
            attempt = int(attempts[first])
            if attempt != self._attempt:
                if self._attempt:
                    self._begin_again(attempt, float(table.steps[first]))
                self._attempt = attempt
            for name, x, y in table.metrics(first, last):
                self._append(name, x, y)

    def _begin_again(self, attempt: int, step: float) -> None:
        self.begins[attempt] = step
        for points in self.metrics.values():
            points.cut(step)
        self.generation += 1

    def _append(self, name: str, x: Floats, y: Floats) -> None:
        points = self.metrics.setdefault(name, Points())
        in_order = points.extend(x, y)
        while points.count > MOST_POINTS:
            points.thin()
            in_order = False
        if not in_order:
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
