"""The lines of a metrics stream as columns, read in bulk: a million lines of two metrics in a third of a second.

Lines are decoded into structs of the metrics that are known, which is three times as fast as into dicts; lines
that hold something else, or are torn, are read the slow way, which learns the names that it meets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from trainkit.files.metrics import RESERVED
from trainkit.files.scalars import MOST

Floats = NDArray[np.float64]

_NOT_METRICS = frozenset({*RESERVED, "epoch"})
#: More columns are not worth a struct: each line would fill them all.
_MOST_FIELDS = 64
#: What JSON escapes in a name: structs are not decoded by such names, so all lines are read the slow way.
_IS_ESCAPED = re.compile(r'["\\\x00-\x1f]')
#: As the recorder writes a number; what is not finite comes as text.
_NUMBER = float | str | None


class Column(NamedTuple):
    """One metric.

    Attributes:
        rows: which lines hold it, in their order, int64; None if all do.
        values: what they hold, float64.
    """

    rows: NDArray[np.int64] | None
    values: Floats


class Table(NamedTuple):
    """Some lines.

    Attributes:
        attempts: of each line, int64, (lines,).
        steps: of each line, float64, (lines,).
        columns: the metrics, by name, in the order in which they were first met.
    """

    attempts: NDArray[np.int64]
    steps: Floats
    columns: dict[str, Column]

    def metrics(self, first: int, last: int) -> Iterator[tuple[str, Floats, Floats]]:
        """Yield, of the lines from ``first`` up to ``last``, each metric with its steps and its values."""
        for name, (rows, values) in self.columns.items():
            if rows is None:
                yield name, self.steps[first:last], values[first:last]
                continue
            begin, end = np.searchsorted(rows, [first, last])
            if begin < end:
                yield name, self.steps[rows[begin:end]], values[begin:end]


class Lines:
    """Reads lines, and remembers which metrics it has met."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._known: msgspec.json.Decoder[Any] | None = None

    def table(self, data: bytes) -> Table:
        """Return whole lines as columns; a line that cannot be read is passed over."""
        if self._known is not None:
            try:
                return self._of_structs(self._known.decode_lines(data))
            except (msgspec.DecodeError, ValueError, OverflowError, RecursionError):
                pass  # a new metric, or a line torn by a kill, is among them
        return self._of_dicts([row for row in _decoded(data) if _has_a_place(row)])

    def _of_structs(self, rows: list[Any]) -> Table:
        columns = {}
        for index, name in enumerate(self._names):
            values = list(map(attrgetter(f"m{index}"), rows))
            if None in values:
                found = [row for row, value in enumerate(values) if value is not None]
                if not found:
                    continue
                columns[name] = Column(np.array(found, np.int64), _floats(values[row] for row in found))
            else:
                columns[name] = Column(None, _floats(values))
        return Table(
            np.array(list(map(attrgetter("attempt"), rows)), np.int64),
            np.array(list(map(attrgetter("step"), rows)), np.float64),
            columns,
        )

    def _of_dicts(self, rows: list[dict[str, Any]]) -> Table:
        found: dict[str, tuple[list[int], list[Any]]] = {}
        for index, row in enumerate(rows):
            for name, value in row.items():
                if name not in _NOT_METRICS and isinstance(value, (int, float, str)):
                    where, values = found.setdefault(name, ([], []))
                    where.append(index)
                    values.append(value)
        self._learn(found)
        columns = {
            name: Column(np.array(found[name][0], np.int64), _floats(found[name][1]))
            for name in self._names
            if name in found
        }
        return Table(
            np.array([row.get("attempt", 1) for row in rows], np.int64),
            np.array([row.get("step", 0) for row in rows], np.float64),
            columns,
        )

    def _learn(self, names: Iterable[str]) -> None:
        new = [name for name in names if name not in self._names]
        self._names += new
        if not new:
            return
        self._known = None
        if len(self._names) <= _MOST_FIELDS and not any(map(_IS_ESCAPED.search, self._names)):
            metrics: list[Any] = [(f"m{index}", _NUMBER, None) for index in range(len(self._names))]
            line = msgspec.defstruct(
                "Line",
                [
                    ("attempt", int, 1),
                    ("step", float, 0.0),
                    ("epoch", _NUMBER, None),
                    ("time", _NUMBER, None),
                    *metrics,
                ],
                rename={f"m{index}": name for index, name in enumerate(self._names)},
                forbid_unknown_fields=True,
                gc=False,
            )
            self._known = msgspec.json.Decoder(line)


_decoder = msgspec.json.Decoder(dict[str, Any])


def _decoded(data: bytes) -> list[dict[str, Any]]:
    try:
        return _decoder.decode_lines(data)
    except (msgspec.DecodeError, ValueError, RecursionError):
        rows = []  # a line torn by a kill is among them: one by one
        for line in data.splitlines():
            try:
                rows.append(_decoder.decode(line))
            except (msgspec.DecodeError, ValueError, RecursionError):
                continue
        return rows


def _has_a_place(row: dict[str, Any]) -> bool:
    attempt, step = row.get("attempt", 1), row.get("step", 0)
    return (
        isinstance(attempt, int) and isinstance(step, (int, float)) and abs(attempt) <= MOST and abs(step) <= MOST
    )


def _floats(values: Iterable[Any]) -> Floats:
    taken = list(values)
    try:
        return np.array(taken, dtype=np.float64)  # also reads "NaN" and "Infinity"
    except (TypeError, ValueError, OverflowError):
        return np.array([_float(value) for value in taken], dtype=np.float64)


def _float(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return float("nan")
