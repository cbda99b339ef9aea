"""JSON Lines: one object per line, the same kind of value in a column from top to bottom.

A key that a line leaves out is a missing value there.  Arrow parses; where it refuses, or where its
numbers cannot vouch for what was written, each line goes through :mod:`json`, which also finds the
place for the message.  Source of the format: https://jsonlines.org and RFC 8259.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from trainkit.errors import TableError
from trainkit.tabular import cells
from trainkit.tabular.grammar import LF, blocks, count, has_tiny_numbers, in_parallel, refuse_many_columns
from trainkit.tabular.options import advice

#: Arrow parses recursively: some hundred thousand brackets, one within the other, end the process.
DEEP = 10_000
PROBES, PROBE_BYTES = 16, 1 << 14
PLAUSIBLE_COLUMNS = 1_000
MOST_VALUES = 2**28
SPARSE_VALUES = 2**24  # of a table with more values than its file has bytes
KEY = re.compile(rb'"((?:[^"\\\n]|\\.)*)"[ \t]*:')
FIRST_LINE = re.compile(rb"[^\n]*")
LINE_START = re.compile(rb"^[ \t\r]*\{", re.MULTILINE)
#: What Python's json writes of numbers that JSON does not have.
NOT_FINITE = ("NaN", "Infinity", "-Infinity")
KINDS = {bool: "true or false", int: "a number", float: "a number", str: "a text"}


def parse_json_lines(data: memoryview, file: Path, missing: tuple[str, ...], max_columns: int) -> pa.Table:
    """Parse UTF-8 JSON Lines into typed columns.

    Args:
        data: the whole file, UTF-8, not empty.
        file: its name, for messages.
        missing: texts read as missing, in addition to null; also NaN, Infinity and -Infinity, which Python writes.
        max_columns: the largest number of columns.

    Raises:
        TableError: with the physical line and the column.
    """
    end = len(data)
    while end and data[end - 1] in b"\r\n \t":
        end -= 1
    data = data[:end]
    counts = in_parallel(_counts, blocks(pa.py_buffer(data)))
    lines = 1 + sum(newlines for newlines, _ in counts)
    first_line = FIRST_LINE.match(data)
    refuse_many_columns(len(set(KEY.findall(first_line[0]))) if first_line else 0, max_columns, file)
    _refuse_scattered_keys(data, lines, file)
    if sum(brackets for _, brackets in counts) - lines > DEEP and _is_deep(bytes(data)):
        return _line_by_line(bytes(data), file, missing)
    try:
        table = _arrow(data)
    except pa.ArrowInvalid:
        return _line_by_line(bytes(data), file, missing)
    nested = any(pa.types.is_nested(field.type) for field in table.schema)
    nameless = not all(name.strip() for name in table.column_names)
    if table.num_rows != lines or table.num_columns == 0 or nested or nameless:
        return _line_by_line(bytes(data), file, missing)
    if any(in_parallel(cells.is_inexact, table.columns)):
        return _line_by_line(bytes(data), file, missing)
    if any(in_parallel(_has_zeros, table.columns)) and has_tiny_numbers(pa.py_buffer(data)):
        return _line_by_line(bytes(data), file, missing)
    refuse_many_columns(table.num_columns, max_columns, file)
    meanings = in_parallel(lambda column: _meaning(column, missing), table.columns)
    return pa.table(dict(zip(table.column_names, meanings, strict=True)))


def _arrow(data: memoryview) -> pa.Table:
    """Parse with Arrow; dates come as text, for Arrow's own forget their zones.

    Each part is given to Arrow by itself: where kinds differ between the blocks of one call, Arrow 26 ends the
    process (a segmentation fault) instead of raising.

    Raises:
        pa.ArrowInvalid: malformed, not one object per line, or kinds that mix.
    """
    text = pa.py_buffer(data)
    head = text.slice(0, bytes(data[:PROBE_BYTES]).rfind(b"\n") + 1)
    first = _arrow_part(head, pa.schema({})).schema if head.size else pa.schema({})
    kinds = {field.name: pa.null() for field in first}  # in the order of the file
    # What is text in the first lines is not taken for dates anywhere: such a part would have to be parsed again.
    texts = pa.schema({field.name: pa.string() for field in first if _is_text(field.type)})
    parts = list(blocks(text))
    tables = in_parallel(lambda part: _arrow_part(part, texts), parts)
    for table in tables:
        for field in table.schema:
            kinds[field.name] = _common(kinds.get(field.name, pa.null()), field.type)
    schema = pa.schema(kinds)

    def with_all_columns(pair: tuple[pa.Buffer, pa.Table]) -> pa.Table:
        part, table = pair
        same = set(table.schema) == set(schema)
        return (table if same else _arrow_part(part, schema)).select(schema.names)

    return pa.concat_tables(in_parallel(with_all_columns, zip(parts, tables, strict=True)))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_temporal(kind) or pa.types.is_string(kind))


def _arrow_part(part: pa.Buffer, schema: pa.Schema) -> pa.Table:
    table = pyarrow.json.read_json(
        pa.BufferReader(part),
        read_options=pyarrow.json.ReadOptions(block_size=min(part.size + 1, 2**31 - 1), use_threads=False),
        parse_options=pyarrow.json.ParseOptions(explicit_schema=schema),
    )
    text = memoryview(part)
    lines = count(text, b"\n") + (text[-1] != LF)
    begun = count(text, b"\n{") + (text[0] == ord("{"))
    # As many flat objects as lines, and a brace at the beginning of each: one object per line.
    if not table.num_rows == lines == (begun if begun == lines else len(LINE_START.findall(text))):
        raise pa.ArrowInvalid("not one object per line")
    return table


def _common(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    one, other = (pa.string() if _is_text(each) else each for each in (one, other))
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    if {one, other} == {pa.int64(), pa.float64()}:
        return pa.float64()
    raise pa.ArrowInvalid(f"{one} and {other} in one column")


def _counts(part: pa.Buffer) -> tuple[int, int]:
    """How many newlines and opening brackets there are."""
    return count(part, b"\n"), count(part, b"[") + count(part, b"{")


def _is_deep(data: bytes) -> bool:
    """Whether a line has so many brackets that Arrow, which parses recursively, could run out of stack."""
    return any(line.count(b"[") + line.count(b"{") > DEEP for line in data.split(b"\n"))


def _refuse_scattered_keys(data: memoryview, lines: int, file: Path) -> None:
    """Look into a file here and there: a table of lines with keys of their own would fill the memory."""
    keys: set[bytes] = set()
    for probe in range(PROBES):
        start = probe * len(data) // PROBES
        keys.update(KEY.findall(bytes(data[start : start + PROBE_BYTES])))
    values = len(keys) * lines
    if len(keys) > PLAUSIBLE_COLUMNS and (values > MOST_VALUES or values > max(SPARSE_VALUES, len(data))):
        raise TableError(
            f"{file}: at least {len(keys):,} keys in {lines:,} lines, which makes a table of {values:,} values, "
            f"nearly all missing; expected the same keys in each line, or at most {SPARSE_VALUES:,} values",
            path=file,
        )


def _has_zeros(column: pa.ChunkedArray) -> bool:
    return pa.types.is_floating(column.type) and bool(pc.any(pc.equal(column, 0.0)).as_py())


def _meaning(column: pa.ChunkedArray, missing: tuple[str, ...]) -> pa.ChunkedArray:
    if not pa.types.is_string(column.type):
        return column
    there = pc.is_in(column, value_set=pa.array(missing, pa.string()))
    return _dates(pc.if_else(there, pa.scalar(None, pa.string()), column) if missing else column)


def _dates(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Dates are the only meaning that a JSON text can have besides itself: 007 in quotes was meant as text."""
    if texts.null_count == len(texts):
        return pa.chunked_array([pa.nulls(len(texts))])
    dates = cells.dates(texts)
    return texts if dates is None else dates


def _line_by_line(data: bytes, file: Path, missing: tuple[str, ...]) -> pa.Table:
    rows: list[dict[str, Any]] = []
    kinds: dict[str, tuple[str, int]] = {}
    lines = data.count(b"\n") + 1
    for number, line in enumerate(data.split(b"\n"), start=1):
        row = _parse_line(line, number, file, missing, last=number == lines)
        for name, value in row.items():
            if isinstance(value, str) and value in missing:
                row[name] = value = None
            kind = KINDS.get(type(value))
            if not name.strip():
                raise _error("a key without a name", file, number, name)
            if value is not None and kind is None:
                raise _error(
                    f"{json.dumps(value)[:60]} is nested; expected one value per column", file, number, name
                )
            first, where = kinds.setdefault(name, (kind, number) if kind else ("", 0))
            if kind and not first:
                kinds[name] = (kind, number)
            elif kind and kind != first:
                raise _error(f"{value!r} is {kind}, but line {where} has {first}", file, number, name)
        rows.append(row)
    columns = {name: [row.get(name) for row in rows] for name in kinds}
    if not columns:
        raise _error("an object without keys; expected columns", file, 1, None)
    return pa.table({name: _column(values, file, name) for name, values in columns.items()})


def _column(values: list[Any], file: Path, name: str) -> pa.ChunkedArray:
    if any(isinstance(value, float) for value in values):
        for line, value in enumerate(values, start=1):
            if isinstance(value, int) and int(float(value)) != value:
                raise _error(
                    f"{value} loses digits among numbers with a point; write it as text", file, line, name
                )
        values = [None if value is None else float(value) for value in values]
    elif any(isinstance(value, str) for value in values):
        return _dates(pa.chunked_array([pa.array(values, pa.string())]))
    else:
        for line, value in enumerate(values, start=1):
            if value is not None and not -(2**63) <= value < 2**63:
                raise _error(f"{value} does not fit in 64 bits; write it as text", file, line, name)
    return pa.chunked_array([pa.array(values)])


def _parse_line(line: bytes, number: int, file: Path, missing: tuple[str, ...], last: bool) -> dict[str, Any]:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        row: dict[str, Any] = {}
        for name, value in items:
            if name in row:
                raise _error("this key is there twice in one object", file, number, name)
            row[name] = value
        return row

    def word(text: str) -> Any:
        if text in missing:
            return None
        how = advice("missing", NOT_FINITE)
        raise _error(f"{text} is not JSON; write null for a missing value, or pass {how}", file, number, None)

    def decimal(text: str) -> float:
        value = float(text)
        if math.isinf(value):
            raise _error(f"{text} is too large for a number; write it as text", file, number, None)
        if value == 0 and text.lower().split("e")[0].strip("-0."):
            raise _error(f"{text} is too near to zero for a number; write it as text", file, number, None)
        return value

    if not line.strip():
        raise _error("an empty line between rows; remove it", file, number, None)
    try:
        row = json.loads(line, object_pairs_hook=pairs, parse_constant=word, parse_float=decimal)
        # json accepts half of a surrogate pair, which is no text.
        json.dumps(row, ensure_ascii=False).encode()
    except TableError:
        raise
    except (ValueError, RecursionError) as error:
        at_end = isinstance(error, json.JSONDecodeError) and error.pos >= len(error.doc.rstrip())
        cut = " (the last line: is the file cut off?)" if last and at_end else ""
        detail = (
            f"{error.msg} at character {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        )
        raise _error(f"not a JSON object: {detail}{cut}", file, number, None) from None
    if not isinstance(row, dict):
        hint = "; a JSON array? Write one object per line" if line.lstrip().startswith(b"[") else ""
        raise _error(
            f'{line.decode()[:60]} is not an object; expected {{"column": value, …}}{hint}',
            file,
            number,
            None,
        )
    return row


def _error(message: str, file: Path, line: int, column: str | None) -> TableError:
    where = f", column {column!r}" if column is not None else ""
    return TableError(f"{file}, line {line}{where}: {message}", path=file, line=line, column=column)
