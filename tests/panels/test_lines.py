"""Lines of metrics become columns, the same ones by the quick way and by the slow one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainkit.files.streams import encode_line
from trainkit.panels.lines import Lines, Table

_NUMBERS = st.one_of(st.floats(), st.integers(-(2**60), 2**60))
_NAMES = st.sampled_from(["loss", "val_loss", "grad norm/é", "0", "self"])
_LINES = st.lists(
    st.fixed_dictionaries(
        {"attempt": st.integers(1, 3), "step": st.integers(0, 2**53)},
        optional={"epoch": st.integers(1, 9), "time": st.floats(0, 2e9)},
    ).flatmap(lambda line: st.dictionaries(_NAMES, _NUMBERS).map(lambda metrics: {**line, **metrics}))
)


def points(table: Table) -> dict[str, list[tuple[float, str]]]:
    """Return each metric's points; values as text, in which NaN equals itself."""
    parts = table.metrics(0, len(table.steps))
    return {name: list(zip(x.tolist(), map(str, y.tolist()), strict=True)) for name, x, y in parts}


def is_quick(lines: Lines, data: bytes) -> bool:
    """Whether these lines are read the quick way."""
    assert lines._known is not None
    try:
        lines._known.decode_lines(data)
    except ValueError:
        return False
    return True


@given(_LINES)
def test_both_ways_find_the_same(rows: list[dict[str, Any]]) -> None:
    """What was met is read the quick way the next time, and nothing changes."""
    data = b"".join(map(encode_line, rows))
    lines = Lines()
    first = lines.table(data)
    again = lines.table(data)
    assert points(first) == points(again)
    assert again.attempts.tolist() == [row["attempt"] for row in rows]
    assert again.steps.tolist() == [float(row["step"]) for row in rows]
    if points(first):
        assert is_quick(lines, data)


@pytest.mark.parametrize(
    "odd",
    [
        b'{"attempt":1,"step":2,"loss":0.2,"new":5.0}\n',
        b'{"attempt":1,"step":2,"loss":0.2}\n{"attempt":1,"st\n',
        b'{"attempt":1,"step":2,"loss":0.2,"note":{"a":[1]}}\n',
        b'{"attempt":1,"step":2,"loss":0.2}\n{"attempt":"x","step":2,"loss":9}\n',
        b'{"attempt":1,"step":2,"loss":0.2}\n[1]\n\xff\n',
    ],
)
def test_an_odd_line_is_read_the_slow_way(odd: bytes) -> None:
    """A new metric, a torn line, what is no number: the lines around it are read, and nothing is raised."""
    lines = Lines()
    plain = [b'{"attempt":1,"step":%d,"loss":0.%d}\n' % (step, step) for step in (1, 2, 3)]
    lines.table(plain[0])
    data = plain[0] + odd + plain[2]
    assert not is_quick(lines, data)
    assert points(lines.table(data))["loss"] == [(1.0, "0.1"), (2.0, "0.2"), (3.0, "0.3")]


def test_very_many_metrics_are_read_too() -> None:
    """Beyond what is worth a struct."""
    lines = Lines()
    rows = [{"attempt": 1, "step": step, f"metric{step}": 1.0} for step in range(200)]
    for _ in range(2):
        table = lines.table(b"".join(map(encode_line, rows)))
        assert len(table.columns) == 200
        assert next(table.metrics(150, 151))[0] == "metric150"


def test_a_part_of_the_lines() -> None:
    """A metric that only some lines hold comes with the steps of these."""
    lines = Lines()
    rows = [
        {"attempt": 1, "step": step, "loss": 1.0, **({"val": 2.0} if step % 5 == 0 else {})} for step in range(20)
    ]
    for _ in range(2):
        parts = {name: (x, y) for name, x, y in lines.table(b"".join(map(encode_line, rows))).metrics(3, 12)}
        assert parts["loss"][0].tolist() == list(range(3, 12))
        assert parts["val"][0].tolist() == [5, 10]
        assert np.all(parts["val"][1] == 2.0)
