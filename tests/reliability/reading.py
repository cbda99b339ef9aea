"""What a table file holds, told without our reader: a plain parser, and a judge of what a reader made of it.

Nothing here uses Arrow or pandas to read.  The judge goes cell by cell: text must come back as it was written,
a number as the number that was written, and what is no table must be refused.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from trainkit.errors import TableError

#: A reader is what is judged: it takes a path and options, and gives a table or raises.
Reader = Callable[..., pd.DataFrame]
Verdict = Literal["exact", "refused", "silently wrong", "refused though sound", "refused without the place"]
NEWLINE = re.compile(r"\r\n|\r|\n")


class Text(str):
    """A field that its format marks as text, as JSON's quotes do: never a number."""

    __slots__ = ()


@dataclass(frozen=True)
class Case:
    """A file, and what it holds.

    Attributes:
        name: for messages.
        content: the bytes of the file.
        columns: what was written, by column; None where the file is no table and must be refused.
        file: its name, which tells its format.
        options: how it is to be read.
        line: where a refusal has to point, if there is one right answer.
        anywhere: whether a refusal may name no line: the file is compressed, binary or empty.
    """

    name: str
    content: bytes
    columns: Mapping[str, list[Any]] | None
    file: str = "t.csv"
    options: Mapping[str, Any] = field(default_factory=dict)
    line: int | None = None
    anywhere: bool = False


class Tally:
    """Counts verdicts, and keeps the names of what went wrong."""

    def __init__(self) -> None:
        self.verdicts: Counter[Verdict] = Counter()
        self.wrong: list[str] = []

    def add(self, verdict: Verdict, name: str) -> None:
        """Count one verdict."""
        self.verdicts[verdict] += 1
        if verdict not in ("exact", "refused"):
            self.wrong.append(f"{verdict}: {name}")

    def __str__(self) -> str:
        tried = sum(self.verdicts.values())
        return f"{tried} tried, {len(self.wrong)} wrong ({dict(self.verdicts)})"


def judge(read: Reader, case: Case, folder: Path) -> Verdict:
    """Write a file, have it read, and say what came of it."""
    path = folder / case.file
    path.write_bytes(case.content)
    try:
        frame = read(path, **case.options)
    except TableError as error:
        if case.columns is not None:
            return "refused though sound"
        placed = error.line == case.line if case.line else case.anywhere or error.line is not None
        told = str(path) in str(error) or any(f"{option}" in str(error) for option in case.options)
        return "refused" if placed and told else "refused without the place"
    except Exception:  # noqa: BLE001 - other readers raise what they like
        return "refused without the place" if case.columns is None else "refused though sound"
    return "exact" if case.columns is not None and holds(frame, case.columns) else "silently wrong"


def holds(frame: pd.DataFrame, columns: Mapping[str, list[Any]]) -> bool:
    """Whether a table has just these columns, and in each cell what was written."""
    if list(frame.columns) != list(columns):
        return False
    for name, written in columns.items():
        found = frame[name].tolist()
        if len(found) != len(written) or not all(map(is_faithful, found, written)):
            return False
    return True


def is_faithful(found: Any, written: Any) -> bool:
    """Whether a value is what was written: as text, or as the number, boolean or moment that the text says."""
    if written is None or written == "":
        return bool(pd.isna(found)) or (written == "" and found == "")
    if isinstance(found, str):
        return found == written
    if pd.isna(found):
        return isinstance(written, float) and math.isnan(written)
    if isinstance(found, (bool, np.bool_)):
        return bool(found) is ({"True": True, "true": True, "False": False, "false": False}.get(str(written)))
    if isinstance(found, (dt.datetime, np.datetime64)):
        try:
            return _same_moment(found, date_of(written) if isinstance(written, str) else written)
        except ValueError:
            return False
    if isinstance(written, Text):
        return False
    if isinstance(found, (int, np.integer)):
        return re.fullmatch(r"[ \t]*-?(0|[1-9][0-9]*)[ \t]*", str(written)) is not None and int(written) == found
    if isinstance(found, (float, np.floating)):
        if isinstance(written, float):  # of a typed file: infinity is a number there
            return bool(found == written)
        try:
            return number_of(str(written)) == found
        except ValueError:
            return False
    return bool(found == written)


# --- what a column of fields means --------------------------------------------------------------


def meaning(cells: list[str | None]) -> list[Any]:
    """What a column of fields means by the documented rule, written without Arrow and without its regexes."""
    for convert in (integer_of, number_of, boolean_of, date_of):
        try:
            values = [convert(each) if each else None for each in cells]
        except (ValueError, OverflowError):
            continue
        zones = {value.tzinfo for value in values if isinstance(value, dt.datetime)}
        if len(zones) < 2:
            return values
    return list(cells)


def integer_of(text: str) -> int:
    """A whole number of 64 bits, or ValueError."""
    text = text.strip(" \t")
    value = int(text)
    if str(value) != text.replace("-0", "0") or not text.isascii() or not -(2**63) <= value < 2**63:
        raise ValueError
    return value


def number_of(text: str) -> float:
    """A number that a float stands for, or ValueError."""
    text = text.strip(" \t")
    digits = text.removeprefix("-")
    if not set(digits) <= set("0123456789.eE+-") or digits[:1] in ("", "+", "-", "e", "E"):
        raise ValueError
    if digits[0] == "0" and digits[1:2].isdigit():
        raise ValueError
    value = float(text)
    whole = set(digits) <= set("0123456789")
    if math.isinf(value) or (whole and int(value) != int(text)) or (value == 0) != (Decimal(text) == 0):
        raise ValueError
    return value


def boolean_of(text: str) -> bool:
    """True or false, or ValueError."""
    if text not in ("True", "true", "False", "false"):
        raise ValueError
    return text in ("True", "true")


def date_of(text: str) -> pd.Timestamp:
    """A moment in ISO 8601, or ValueError."""
    text = text.strip(" \t")
    if not re.fullmatch(
        r"\d{4}-\d\d-\d\d([ T]\d\d(:\d\d(:\d\d(\.\d{1,9})?)?)?(Z|[-+]\d\d(:?\d\d)?)?)?", text, re.ASCII
    ):
        raise ValueError
    return pd.Timestamp(text)


def plain(series: pd.Series) -> list[Any]:
    """The values of a column, with None for missing."""
    return [None if pd.isna(value) else value for value in series.tolist()]


def same(found: list[Any], expected: list[Any]) -> bool:
    """Equal in value and in kind; a date as the same moment."""
    for one, other in zip(found, expected, strict=True):
        if isinstance(other, dt.datetime):
            if not isinstance(one, dt.datetime) or not _same_moment(one, other):
                return False
        elif one != other or (one is not None and isinstance(one, str) != isinstance(other, str)):
            return False
    return True


def _same_moment(found: Any, expected: Any) -> bool:
    moment, other = pd.Timestamp(found), pd.Timestamp(expected)
    if (moment.tzinfo is None) != (other.tzinfo is None):
        return False
    return bool(moment == other)


# --- what a text is made of ---------------------------------------------------------------------


@dataclass
class Row:
    """A record: the physical line where it begins, and its fields with whether they were quoted."""

    line: int
    fields: list[tuple[str, bool]]


def records(content: str, mark: str = ",") -> list[Row] | None:
    """RFC 4180 as a plain state machine; None if malformed."""
    content = content.rstrip("\r\n")
    position, end, rows = 0, len(content), [Row(1, [])]
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
            rows[-1].fields.append((value, True))
        else:
            start = position
            while position < end and content[position] not in f"{mark}\r\n":
                if content[position] == '"':
                    return None
                position += 1
            rows[-1].fields.append((content[start:position], False))
        if position >= end:
            return rows
        if content[position] == mark:
            position += 1
        elif content[position] in "\r\n":
            position += 2 if content[position : position + 2] == "\r\n" else 1
            rows.append(Row(len(NEWLINE.findall(content[:position])) + 1, []))
        else:
            return None


def written(
    columns: list[list[str | None]], *, quote_all: bool = False, newline: str = "\n", mark: str = ","
) -> str:
    """A delimited text of columns c0, c1, …; a field is quoted where it must be."""

    def put(value: str | None) -> str:
        if value is None:
            return ""
        if quote_all or value == "" or any(each in value for each in (mark, '"', "\n", "\r")):
            return '"' + value.replace('"', '""') + '"'
        return value

    header = mark.join(f"c{position}" for position in range(len(columns)))
    rows = [mark.join(map(put, row)) for row in zip(*columns, strict=True)]
    return newline.join([header, *rows]) + newline
