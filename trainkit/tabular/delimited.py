"""CSV and TSV, as RFC 4180 has them, and nothing that only looks like it.

Arrow parses; around it stand checks for what Arrow reads without a word: a closing quote followed by
text, blank lines, leading zeros, hexadecimal, infinities.  When Arrow or a check refuses, a slower
scan of the rows finds the physical line and the column for the message.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from trainkit.errors import TableError
from trainkit.tabular import cells
from trainkit.tabular.grammar import (
    blocks,
    count,
    has_doubtful_numbers,
    has_tiny_numbers,
    in_parallel,
    is_plain,
    refuse_many_columns,
)

QUOTE, LF, CR = 34, 10, 13
CHUNK = 1 << 20
#: Bytes that Arrow parses at once, more where a row is longer.
BLOCK_BYTES = 1 << 22
BOM = b"\xef\xbb\xbf"  # the mark of UTF-8 at the beginning of a file
NEWLINE = re.compile(rb"\r\n|\r|\n")
#: The first line by which Excel names the delimiter of a CSV.
SEPARATOR_LINE = re.compile(rb'"?sep=([!-~ \t])"?(?:\r\n|\r|\n)', re.IGNORECASE)
STRAY_QUOTE = 'a quote inside an unquoted field; write "5"" pipe", or train on tk.read_table(..., quoting=False)'
AFTER_QUOTE = 'text after a closing quote; expected the delimiter or the end of the line, or "" for a quote'
UNCLOSED_QUOTE = 'a quote that is never closed; expected " at the end of the field'


def parse_delimited(
    data: memoryview,
    file: Path,
    delimiter: str | None,
    usual_delimiter: str,
    missing: tuple[str, ...],
    quoting: bool,
    max_columns: int,
) -> pa.Table:
    """Parse UTF-8 text with a header line into typed columns.

    Args:
        data: the whole file, UTF-8, not empty.
        file: its name, for messages.
        delimiter: one ASCII character; None takes that of a first line ``sep=;``, or else the usual one.
        usual_delimiter: that of files of this kind.
        missing: words read as missing, besides the empty field.
        quoting: whether ``"`` quotes.
        max_columns: the largest number of columns.

    Raises:
        TableError: with the physical line and the column.
    """
    data, mark, lines_before = _after_separator_line(data, delimiter, usual_delimiter)
    return _Delimited(data, file, mark, missing, quoting, lines_before).parse(max_columns)


def line_of_record(
    data: memoryview, file: Path, delimiter: str | None, usual_delimiter: str, record: int
) -> int | None:
    """Return the physical line where a record begins; the header is record 0."""
    data, mark, lines_before = _after_separator_line(data, delimiter, usual_delimiter)
    rows = _Delimited(data, file, mark, (), True, lines_before).rows()
    return next((line + lines_before for number, (line, _, _) in enumerate(rows) if number == record), None)


def _after_separator_line(
    data: memoryview, delimiter: str | None, usual_delimiter: str
) -> tuple[memoryview, str, int]:
    """Return the text after a first line such as ``sep=;``, the delimiter, and how many lines were passed over."""
    match = SEPARATOR_LINE.match(data)
    if match is None or delimiter not in (None, match[1].decode()):
        return data, delimiter or usual_delimiter, 0
    return data[match.end() :], match[1].decode(), 1


class _OtherKindError(Exception):
    """A value is not of the kind that its column was said to be of."""


class _Delimited:
    def __init__(
        self,
        data: memoryview,
        file: Path,
        delimiter: str,
        missing: tuple[str, ...],
        quoting: bool,
        lines_before: int = 0,
    ) -> None:
        self.file, self.delimiter, self.missing = file, delimiter, missing
        self.lines_before = lines_before  # in the file, of which data is the rest
        self.data = data
        self.stop = len(data)  # where the last row ends, before its newline
        while self.stop and data[self.stop - 1] in (LF, CR):
            self.stop -= 1
        self.quoted = quoting and count(data, b'"') > 0
        self.names: list[str] = []
        self.multiline = True  # whether a field may hold newlines

    def parse(self, max_columns: int) -> pa.Table:
        if self.stop == 0 or self.data[0] in (LF, CR):
            raise self.error("an empty line; expected column names", 1)
        if self.stop == len(self.data):
            # Without a newline at the end Arrow takes a bare empty last field after quoted ones for a quoted one.
            self.data = memoryview(bytes(self.data) + b"\n")
        doubtful, self.multiline = self._check()
        _, self.names, end = next(self.rows())
        refuse_many_columns(len(self.names), max_columns, self.file)
        self._check_names()
        if end >= self.stop:
            raise self.error("a header and no rows; expected at least one row", 1)
        if len(self.names) == 1 and len(NEWLINE.findall(self.data, self.stop)) > 1:
            # In a one-column table a blank last line could be a missing value: not for us to guess.
            raise self._blank_line(self.stop + 1)
        body = pa.py_buffer(self.data).slice(end, self.stop + 1 - end)
        if bytes(self.data[end : end + len(BOM)]) == BOM:  # Arrow takes one off: it is to be ours, not the value's
            body = pa.py_buffer(BOM + bytes(self.data[end : self.stop + 1]))
        return self._exactly(self._inferred(body), body, doubtful)

    def _check(self) -> tuple[bool, bool]:
        """Check lines and quotes; return whether numbers like 007, and newlines within fields, may be there."""
        end = self.stop + (2 if bytes(self.data[self.stop : self.stop + 2]) == b"\r\n" else 1)
        text = pa.py_buffer(self.data).slice(0, end)
        for exact in (True, False):
            if is_plain(text, self.delimiter, quoted=self.quoted, exact_numbers=exact):
                return not exact, False
        self._check_quotes() if self.quoted else self._check_lines()
        return has_doubtful_numbers(text, self.delimiter), True

    def _inferred(self, body: pa.Buffer) -> pa.Table:
        """Parse; the kinds that the first part of a large file shows are tried on all of it.

        Where Arrow has to infer them itself, it keeps all the text until its end, and takes longer.
        """
        if not self.multiline and body.size > 4 * BLOCK_BYTES:
            first = self._arrow(next(blocks(body)), {}, None)
            kinds = {field.name: field.type for field in first.schema if not pa.types.is_null(field.type)}
            with contextlib.suppress(_OtherKindError):
                return self._arrow(body, kinds, None)
        return self._arrow(body, {}, None)

    def _exactly(self, table: pa.Table, body: pa.Buffer, doubtful: bool) -> pa.Table:
        """Redo from text every column whose values cannot vouch for what was written."""

        def is_doubtful(column: pa.ChunkedArray) -> bool:
            number = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
            return (
                (doubtful and number)
                or pa.types.is_time(column.type)
                or cells.is_inexact(column)
                or self._shows_what_is_missing(column)
                or self._may_hide_tiny_numbers(column)
                or (pa.types.is_string(column.type) and cells.begins_with_date(column))  # of any century
            )

        found = in_parallel(is_doubtful, table.columns)
        again = [name for name, redo in zip(self.names, found, strict=True) if redo]
        if not again:
            return table
        texts = self._arrow(body, {name: pa.string() for name in again}, again)
        redone = dict(zip(again, in_parallel(self._meaning, texts.columns), strict=True))
        columns = zip(self.names, table.columns, strict=True)
        return pa.table({name: redone.get(name, column) for name, column in columns})

    def _shows_what_is_missing(self, column: pa.ChunkedArray) -> bool:
        """Look for words for missing that Arrow took for values, since they were quoted or had blanks around."""
        if pa.types.is_string(column.type):
            words = ["", *self.missing] if self.quoted else self.missing
            if not words:
                return False
            known = pa.array(words, pa.string())
            forms = [column, pc.utf8_trim(column, " \t")] if self.missing else [column]
            return any(pc.any(pc.is_in(texts, value_set=known)).as_py() for texts in forms)
        for word in self.missing:
            try:
                value = pa.scalar(word, pa.string()).cast(column.type)
            except pa.ArrowInvalid:  # such a column cannot hold it
                continue
            if pc.any(pc.equal(column, value)).as_py():
                return True
        return False

    def _may_hide_tiny_numbers(self, column: pa.ChunkedArray) -> bool:
        if not pa.types.is_floating(column.type) or not pc.any(pc.equal(column, 0.0)).as_py():
            return False
        return self._has_tiny_literals

    @cached_property
    def _has_tiny_literals(self) -> bool:
        return has_tiny_numbers(pa.py_buffer(self.data))

    def _meaning(self, texts: pa.ChunkedArray) -> pa.ChunkedArray:
        nothing, words = pa.scalar(None, pa.string()), pa.array(self.missing, pa.string())
        named = pc.is_in(texts, value_set=words)
        # In a column of numbers blanks around a value, and quotes around nothing, say nothing.
        meant = pc.or_(named, pc.or_(pc.is_in(pc.utf8_trim(texts, " \t"), value_set=words), pc.equal(texts, "")))
        column = cells.infer(pc.if_else(meant, nothing, texts))
        if not pa.types.is_string(column.type):
            return column
        # Text after all: there a quoted empty field is an empty text, unless "" was named as missing.
        return pc.if_else(named, nothing, texts)

    def _arrow(self, body: pa.Buffer, types: dict[str, pa.DataType], include: list[str] | None) -> pa.Table:
        block = BLOCK_BYTES
        while True:
            try:
                return pyarrow.csv.read_csv(
                    pa.BufferReader(body),
                    read_options=pyarrow.csv.ReadOptions(
                        column_names=self.names, block_size=min(block, 2**31 - 1)
                    ),
                    parse_options=pyarrow.csv.ParseOptions(
                        delimiter=self.delimiter,
                        quote_char='"' if self.quoted else False,
                        newlines_in_values=self.quoted and self.multiline,
                        ignore_empty_lines=False,
                    ),
                    convert_options=pyarrow.csv.ConvertOptions(
                        null_values=["", *self.missing],
                        strings_can_be_null=True,
                        quoted_strings_can_be_null=False,
                        true_values=["True", "true"],
                        false_values=["False", "false"],
                        column_types=types,
                        include_columns=include or [],
                    ),
                )
            except pa.ArrowInvalid as error:
                if "straddling" in str(error) and block < body.size:
                    block *= 16  # one row is longer than a block
                    continue
                if types and "conversion error" in str(error):
                    raise _OtherKindError from None
                raise self._ragged(error) from None

    # ---- finding the place -------------------------------------------------------------------------

    def error(self, message: str, line: int, column: str | int | None = None) -> TableError:
        where = f", column {column!r}" if column is not None else ""
        line += self.lines_before
        return TableError(f"{self.file}, line {line}{where}: {message}", path=self.file, line=line, column=column)

    def rows(self, stop: int | None = None) -> Iterator[tuple[int, list[str], int]]:
        """Yield (physical line of its start, fields, byte offset of its end) of each record; exact and slow."""
        stop = self.stop if stop is None else stop
        mark_byte = self.delimiter.encode()
        mark = re.escape(mark_byte)
        plain = rb'[^%s"\r\n]*' % mark if self.quoted else rb"[^%s\r\n]*" % mark
        quoted = rb'"([^"]*(?:""[^"]*)*)"' if self.quoted else rb"(?!)()"
        token = re.compile(rb"(?:" + quoted + rb"|(" + plain + rb"))(" + mark + rb"|\r\n|\r|\n|\Z)")
        position, line, start, fields = 0, 1, 1, cast(list[str], [])
        while position < stop:
            match = token.match(self.data, position, stop)
            if match is None:  # the structure was checked before: cannot happen
                raise self.error("cannot be split into fields", line)
            inner, bare, end = match.groups()
            if inner is not None:
                fields.append(inner.replace(b'""', b'"').decode())
                line += len(NEWLINE.findall(inner))
            else:
                fields.append(bare.decode())
            position = match.end()
            if end != mark_byte:
                yield start, fields, position
                line += 1
                start, fields = line, []
        if fields:  # the text ends with a delimiter
            yield start, [*fields, ""], position

    def _check_quotes(self) -> None:
        """Check that every quote opens, closes or is doubled, and that no line between rows is blank."""
        text = np.frombuffer(self.data, np.uint8, self.stop)
        outside = np.zeros(256, bool)
        outside[[ord(self.delimiter), LF, CR, QUOTE]] = True
        seen = 0
        for start in range(0, self.stop, CHUNK):
            quotes = np.flatnonzero(text[start : start + CHUNK] == QUOTE) + start
            # Quotes alternate: one opens (or is the second of a pair), the next closes (or is the first).
            opening, closing = quotes[seen % 2 :: 2], quotes[1 - seen % 2 :: 2]
            stray = opening[~(outside[text[np.maximum(opening - 1, 0)]] | (opening == 0))]
            after = closing[~(outside[text[np.minimum(closing + 1, self.stop - 1)]] | (closing == self.stop - 1))]
            if len(stray) or len(after):
                first = min([*stray[:1].tolist(), *after[:1].tolist()])
                raise self._wrong_quote(first, STRAY_QUOTE if first in stray[:1] else AFTER_QUOTE)
            blanks = _blank_lines(text, start)
            outside_quotes = blanks[(seen + np.searchsorted(quotes, blanks)) % 2 == 0]
            if len(outside_quotes):
                raise self._blank_line(int(outside_quotes[0]))
            seen += len(quotes)
        if seen % 2:
            # The last quote that follows a delimiter or newline is most likely the one left open.
            raise self._wrong_quote(bytes(self.data[: self.stop]).rfind(b'"'), UNCLOSED_QUOTE)

    def _check_lines(self) -> None:
        """Check that no line between rows is blank, where quotes are characters like any other."""
        text = np.frombuffer(self.data, np.uint8, self.stop)
        for start in range(0, self.stop, CHUNK):
            if len(blanks := _blank_lines(text, start)):
                raise self._blank_line(int(blanks[0]))

    def _wrong_quote(self, offset: int, message: str) -> TableError:
        line = self._line_at(offset)
        start, fields = line, [""]
        sound = offset + 1 if message == AFTER_QUOTE else offset  # up to here the text is well-formed
        if sound and self.data[sound - 1] not in (LF, CR):
            *_, (start, fields, _) = self.rows(sound)
        names = self._first_line()
        column = names[len(fields) - 1] if start > 1 and len(fields) <= len(names) else len(fields)
        begins = (
            f" (this row begins at line {start + self.lines_before}: is a quote left open there?)"
            if start != line
            else ""
        )
        return self.error(message + begins, line, column)

    def _line_at(self, offset: int) -> int:
        return len(NEWLINE.findall(self.data, 0, offset)) + 1

    def _first_line(self) -> list[str]:
        line = re.split(rb"\r|\n", self.data, maxsplit=1)[0].decode()
        return [name.strip('"') for name in line.split(self.delimiter)]

    def _blank_line(self, offset: int) -> TableError:
        line = self._line_at(offset)
        hint = '; write "" for a missing value' if len(self._first_line()) == 1 else ""
        return self.error(f"an empty line between rows; remove it{hint}", line)

    def _check_names(self) -> None:
        first: dict[str, int] = {}
        for position, name in enumerate(self.names, start=1):
            if not name.strip():
                # What pandas writes, unless told otherwise.
                hint = ", or write the file by to_csv(..., index=False)" if position == 1 else ""
                raise self.error(f"column {position} has no name; give it one{hint}", 1, position)
            if name in first:
                places = f"as column {first[name]} and {position}"
                raise self.error(f"this name is there twice, {places}; rename one", 1, name)
            first[name] = position

    def _ragged(self, cause: pa.ArrowInvalid) -> TableError:
        width = len(self.names)
        for line, fields, _ in self.rows():
            if len(fields) < width:
                column = self.names[len(fields)]
                message = f"{len(fields)} fields, the header has {width}; {column!r} is the first one missing"
                return self.error(message, line, column)
            if len(fields) > width:
                message = f"{len(fields)} fields, the header has {width}; {fields[width]!r} is one too many"
                return self.error(f"{message} (a delimiter inside a text needs quotes)", line, width + 1)
        return TableError(f"{self.file}: {cause}", path=self.file)


def _blank_lines(text: np.ndarray, start: int) -> np.ndarray:
    """Where blank lines end: the offsets of newlines behind newlines, of which the first is in a chunk of text."""
    part = text[start : start + CHUNK + 1]
    first, second = part[:-1], part[1:]
    pairs = ((first == LF) & ((second == LF) | (second == CR))) | ((first == CR) & (second == CR))
    return np.flatnonzero(pairs) + start + 1
