"""The reader against an independent one: whatever a file holds, it is read exactly or refused by name."""

from __future__ import annotations

import datetime as dt
import json
import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from trainkit.errors import TableError
from trainkit.tabular.read import read_table

quick = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

WORDS = [
    "007", "7", "-0", "+5", "0x10", "1e400", "1e5", "nan", "inf", "NA", "None", "null", "True", "false",
    "12:30", "9007199254740993", "12345678901234567890", "-9223372036854775808", "0.5", ".5", "5.",
    "-.5e-3", "1_000", "1,5", "2020-02-29", "2021-02-29", "2020-01-01 10:00", "2020-01-01T10:00:00.5",
    "2020-01-01T00:00:00Z", " 5", "5 ", " ", 'say "hi"', "a\nb", "a\r\nb", "é", "\t", "-", "", "00", "0",
    "1.0", "-01", "1e-7", "١٢", "\x0b5", "5\xa0", "0.1e999",
]  # fmt: skip
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
cell = st.one_of(st.none(), st.sampled_from(WORDS), text)
number = st.one_of(
    st.integers(-(2**64), 2**64).map(str), st.floats(allow_nan=False, allow_infinity=False).map(repr)
)
column = st.one_of(
    st.lists(cell, min_size=4, max_size=4),
    st.lists(st.one_of(st.none(), number), min_size=4, max_size=4),
    st.lists(st.sampled_from([None, "1", "2", "007", "0.5", "True", "2020-02-29"]), min_size=4, max_size=4),
)


def meaning(cells: list[str | None]) -> list[Any]:
    """What a column of fields means by the documented rule, written without Arrow and without its regexes."""
    for convert in (_integer, _number, _boolean, _date):
        try:
            values = [convert(each) if each else None for each in cells]
        except (ValueError, OverflowError):
            continue
        zones = {value.tzinfo for value in values if isinstance(value, dt.datetime)}
        if len(zones) < 2:
            return values
    return list(cells)


def _integer(field: str) -> int:
    field = field.strip(" \t")
    value = int(field)
    if str(value) != field.replace("-0", "0") or not field.isascii() or not -(2**63) <= value < 2**63:
        raise ValueError
    return value


def _number(field: str) -> float:
    field = field.strip(" \t")
    digits = field.removeprefix("-")
    if not set(digits) <= set("0123456789.eE+-") or digits[:1] in ("", "+", "-", "e", "E"):
        raise ValueError
    if digits[0] == "0" and digits[1:2].isdigit():
        raise ValueError
    value = float(field)
    whole = set(digits) <= set("0123456789")
    if math.isinf(value) or (whole and int(value) != int(field)):
        raise ValueError
    return value


def _boolean(field: str) -> bool:
    return {"True": True, "true": True, "False": False, "false": False}[field] if field in (
        "True", "true", "False", "false") else int("x")  # fmt: skip


def _date(field: str) -> dt.datetime:
    field = field.strip(" \t")
    if not re.fullmatch(
        r"\d{4}-\d\d-\d\d([ T]\d\d(:\d\d(:\d\d(\.\d{1,9})?)?)?(Z|[-+]\d\d(:?\d\d)?)?)?", field, re.ASCII
    ):
        raise ValueError
    return dt.datetime.fromisoformat(field)


def plain(series: pd.Series) -> list[Any]:
    return [None if pd.isna(value) else value for value in series.tolist()]


def same(found: list[Any], expected: list[Any]) -> bool:
    """Equal in value and in kind; a date as the same moment."""
    for one, other in zip(found, expected, strict=True):
        if isinstance(other, dt.datetime):
            moment = pd.Timestamp(other)
            if not isinstance(one, (pd.Timestamp, dt.datetime)) or pd.Timestamp(one) != (
                moment.tz_convert("UTC") if moment.tzinfo else moment
            ):
                return False
        elif one != other or (one is not None and isinstance(one, str) != isinstance(other, str)):
            return False
    return len(found) == len(expected)


def write(columns: list[list[str | None]], quote_all: bool, newline: str, mark: str) -> str:
    def field(value: str | None) -> str:
        if value is None:
            return ""
        if quote_all or value == "" or any(each in value for each in (mark, '"', "\n", "\r")):
            return '"' + value.replace('"', '""') + '"'
        return value

    header = mark.join(f"c{position}" for position in range(len(columns)))
    rows = [mark.join(map(field, row)) for row in zip(*columns, strict=True)]
    return newline.join([header, *rows]) + newline


@quick
@given(
    columns=st.lists(column, min_size=2, max_size=4),
    quote_all=st.booleans(),
    newline=st.sampled_from(["\n", "\r\n"]),
    tsv=st.booleans(),
    bom=st.booleans(),
)
def test_what_was_written_is_read_exactly(
    tmp_path: Path, columns: list[list[str | None]], quote_all: bool, newline: str, tsv: bool, bom: bool
) -> None:
    """A well-formed file reads as what was written, by the documented meaning of each column."""
    file = tmp_path / ("t.tsv" if tsv else "t.csv")
    content = write(columns, quote_all, newline, "\t" if tsv else ",")
    file.write_bytes((b"\xef\xbb\xbf" if bom else b"") + content.encode())
    frame = read_table(file)
    for position, cells in enumerate(columns):
        expected = meaning(cells)
        if any(isinstance(value, dt.datetime) and value.microsecond % 1000 for value in expected):
            continue
        found = plain(frame[f"c{position}"])
        assert same(found, expected), (cells, found, expected)


def records(content: str) -> list[list[tuple[str, bool]]] | None:
    """RFC 4180 as a plain state machine: fields with whether they were quoted; None if malformed."""
    rows: list[list[tuple[str, bool]]] = [[]]
    position, end = 0, len(content.rstrip("\r\n"))
    content = content[:end]
    while True:
        if content[position : position + 1] == '"':
            value, position = "", position + 1
            while True:
                close = content.find('"', position)
                if close < 0:
                    return None
                value += content[position:close]
                position = close + 1
                if content[position : position + 1] != '"':
                    break
                value, position = value + '"', position + 1
            rows[-1].append((value, True))
        else:
            start = position
            while position < end and content[position] not in ",\r\n":
                if content[position] == '"':
                    return None
                position += 1
            rows[-1].append((content[start:position], False))
        if position >= end:
            return rows
        if content[position] == ",":
            position += 1
        elif content[position] in "\r\n":
            position += 2 if content[position : position + 2] == "\r\n" else 1
            rows.append([])
        else:
            return None


@quick
@given(
    columns=st.lists(column, min_size=1, max_size=3),
    quote_all=st.booleans(),
    edits=st.lists(
        st.tuples(st.integers(0, 80), st.sampled_from(list('",\n\r0 a"\n,')), st.booleans()),
        min_size=1,
        max_size=4,
    ),
)
def test_a_damaged_file_is_refused_by_line_or_read_as_it_stands(
    tmp_path: Path, columns: list[list[str | None]], quote_all: bool, edits: list[tuple[int, str, bool]]
) -> None:
    """After random edits the reader agrees with an independent parser on whether, and as what, it reads."""
    content = write(columns, quote_all, "\n", ",")
    for place, mark, replace in edits:
        place %= len(content) + 1
        content = content[:place] + mark + content[place + replace :]
    file = tmp_path / "t.csv"
    file.write_bytes(content.encode())
    rows = records(content)
    header = [name for name, _ in rows[0]] if rows else []
    blank = any(row == [("", False)] for row in rows[1:]) if rows else False
    sound = (
        rows is not None
        and len(rows) > 1
        and all(len(row) == len(header) for row in rows)
        and all(name.strip() for name in header)
        and len(set(header)) == len(header)
        and not blank
        and not (len(header) == 1 and re.search(r"(\r\n|\r|\n){2}$", content))
    )
    if not sound:
        with pytest.raises(TableError) as refused:
            read_table(file)
        assert refused.value.line is None or 1 <= refused.value.line <= len(re.findall(r"\r\n|\r|\n", content)) + 1
        assert str(file) in str(refused.value)
        return
    frame = read_table(file)
    assert rows is not None
    assert list(frame.columns) == header
    for position, name in enumerate(header):
        cells = [None if row[position] == ("", False) else row[position][0] for row in rows[1:]]
        assert same(plain(frame[name]), meaning(cells)), (cells, plain(frame[name]))


value = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    text,
)


@quick
@given(
    rows=st.lists(st.dictionaries(st.sampled_from(["a", "b", "ü"]), value, min_size=1), min_size=1, max_size=5),
    edits=st.lists(
        st.tuples(st.integers(0, 60), st.sampled_from(list('{}":,0\n1.eN')), st.booleans()), max_size=2
    ),
)
def test_json_lines_are_read_as_json_has_them_or_refused(
    tmp_path: Path, rows: list[dict[str, Any]], edits: list[tuple[int, str, bool]]
) -> None:
    """Each value is what the json module reads, or the file is refused; damaged or not."""
    content = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    for place, mark, replace in edits:
        place %= len(content) + 1
        content = content[:place] + mark + content[place + replace :]
    assume(content.strip())
    file = tmp_path / "t.jsonl"
    file.write_bytes(content.encode())
    frame, refused = read_or_refused(file)
    if frame is None:
        kinds = {name: {_kind(row[name]) for row in rows if row.get(name) is not None} for name in "abü"}
        mixed = any(len(kind) > 1 for kind in kinds.values())
        assert edits or mixed or "loses digits" in refused, f"refused a sound file: {refused}"
        assert str(file) in refused
        return
    lines = content.rstrip("\r\n \t").split("\n")
    truth = [json.loads(line, object_pairs_hook=_no_repeats, parse_constant=_no_words) for line in lines]
    for name in frame.columns:
        found, expected = plain(frame[name]), [row.get(name) for row in truth]
        if str(frame[name].dtype).startswith("datetime"):
            expected = [None if each is None else _date(each) for each in expected]
        assert same(found, expected), (found, expected)
    assert set(frame.columns) == {name for row in truth for name in row}


def read_or_refused(file: Path) -> tuple[pd.DataFrame | None, str]:
    try:
        return read_table(file), ""
    except TableError as error:
        return None, str(error)


def _kind(value: Any) -> str:
    return "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value).__name__


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len({name for name, _ in pairs}) == len(pairs), "a repeated key was read"
    return dict(pairs)


def _no_words(word: str) -> Any:
    pytest.fail(f"{word} was read")


@pytest.mark.parametrize("suffix", [".parquet", ".csv.gz"])
def test_other_containers_read_the_same(tmp_path: Path, suffix: str) -> None:
    """Parquet and gzip give what plain CSV gives, types included."""
    frame = pd.DataFrame(
        {
            "n": [1, 2],
            "x": [0.1, 1e300],
            "s": ["007", "NA"],
            "b": [True, False],
            "d": pd.to_datetime(["2020-01-01"] * 2),
        }
    )
    file = tmp_path / f"t{suffix}"
    frame.to_parquet(file) if suffix == ".parquet" else frame.to_csv(file, index=False)
    found = read_table(file)
    assert found.astype({"d": "datetime64[ns]"}).equals(frame.astype({"d": "datetime64[ns]"}))
