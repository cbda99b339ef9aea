"""Delimited text as a regular language: one pass of a compiled automaton over all bytes, in parallel.

RE2 (within Arrow) turns an expression without look-around into an automaton that takes about a nanosecond a
byte, whatever the expression says.  So one expression can hold all that well-formed text must obey; text that
does not match is looked at again by exact and slower code, which also finds the place for a message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainkit.errors import TableError

BLOCK_BYTES = 1 << 22
CACHED_BYTES = 1 << 16
LF = 10
#: The smallest float is 5e-324: what is written of a lesser number has one of these, an exponent or as many zeros.
TINY_EXPONENT, TINY_ZEROS = "[eE]-[0-9]{3}", 200
KNOWN_DELIMITERS = ",;\t|"  # others mean something within numbers or expressions

Buffer: TypeAlias = "bytes | memoryview | pa.Buffer"
Result = TypeVar("Result")


def is_plain(text: pa.Buffer, delimiter: str, *, quoted: bool, exact_numbers: bool) -> bool:
    r"""Tell whether text is records of fields, with no blank line, no newline within a field, no stray quote.

    Args:
        text: whole lines.
        delimiter: one ASCII character.
        quoted: whether ``"`` quotes; else it is a character like any other.
        exact_numbers: also require that no field begins like 007, +5, 0x10 or -01, which parsers of numbers
            take and whose digits they lose.

    False may also mean that the text is sound in a way that this grammar does not know.

    >>> is_plain(pa.py_buffer(b'a,b\n1,"x, y"\n'), ",", quoted=True, exact_numbers=True)
    True
    >>> is_plain(pa.py_buffer(b"a,b\n1,007\n"), ",", quoted=True, exact_numbers=True)
    False
    """
    if delimiter not in KNOWN_DELIMITERS:
        return False
    pattern = _lines(delimiter, quoted, exact_numbers)
    return all(in_parallel(lambda block: _matches(block, pattern), blocks(text)))


def has_doubtful_numbers(text: pa.Buffer, delimiter: str) -> bool:
    r"""Tell whether something might be a field that begins like 007, +5, 0x10 or -01; for any text.

    >>> has_doubtful_numbers(pa.py_buffer(b"a\n0.7\n"), ","), has_doubtful_numbers(pa.py_buffer(b"a\n-07\n"), ",")
    (False, True)
    """
    return _contains(text, rf'(?:\A|[{re.escape(delimiter)}"\r\n \t])(?:-?0[0-9xX]|\+)')


def has_tiny_numbers(text: pa.Buffer) -> bool:
    r"""Tell whether something might be a number so near to zero that a float takes it for 0; for any text.

    >>> [has_tiny_numbers(pa.py_buffer(number)) for number in (b"0.0", b"1e-400", b"." + b"0" * 330 + b"1")]
    [False, True, True]
    """
    view, half = np.frombuffer(text, np.uint8), TINY_ZEROS // 2
    # A row of so many zeros has one of half the length that begins at a multiple of it.
    places = np.arange(0, len(view) - half + 1, half)
    for offset in range(half):
        places = places[view[places + offset] == ord("0")]
    return len(places) > 0 or _contains(text, TINY_EXPONENT)


def _contains(text: pa.Buffer, pattern: str) -> bool:
    return any(in_parallel(lambda block: _matches(block, pattern), blocks(text)))


def count(text: Buffer, sequence: bytes) -> int:
    """Count where these few bytes stand, in text that need not be ``bytes``, and twice as fast as ``bytes.count``.

    >>> count(b"aaab", b"aa"), count(b"a", b"aa")
    (2, 0)
    """
    view = np.frombuffer(text, np.uint8)
    places = len(view) - len(sequence) + 1
    found = 0
    for begin in range(0, places, CACHED_BYTES):
        end = min(begin + CACHED_BYTES, places)
        there = view[begin:end] == sequence[0]
        for offset, byte in enumerate(sequence[1:], start=1):
            there &= view[begin + offset : end + offset] == byte
        found += int(np.count_nonzero(there))
    return found


def in_parallel(work: Callable[..., Result], *items: Iterable[Any]) -> list[Result]:
    """Apply a function that releases the interpreter's lock, as ``map`` does, on as many threads as Arrow uses."""
    with ThreadPoolExecutor(pa.cpu_count(), "trainkit-read") as pool:
        return list(pool.map(work, *items))


def _lines(delimiter: str, quoted: bool, exact_numbers: bool) -> str:
    mark = re.escape(delimiter)
    blank = "[ \t]".replace(delimiter, "")
    outside = '"' if quoted else ""
    field = _content(rf"[^{mark}\r\n{outside}@]", "", blank, exact_numbers)
    if quoted:
        within = _content(r'[^"\r\n@]', '|""', blank, exact_numbers)
        field = f'{field}|"(?:{within})?"'
    return rf"\A(?:(?:(?:{field})?(?:{mark}(?:{field})?)+|(?:{field}))\r?\n)*\z"


def _content(character: str, doubled: str, blank: str, exact_numbers: bool) -> str:
    """An expression for the characters of a field, at least one; ``@`` in a class stands for more to leave out."""

    def one_but(others: str) -> str:
        return f"(?:{character.replace('@', others)}{doubled})"

    any_more = one_but("") + "*"
    if not exact_numbers:
        return one_but("") + any_more
    zero = f"-?0(?:{one_but('0-9xX')}{any_more})?"
    minus = f"-(?:{one_but('0')}{any_more})?"
    other = one_but("0+ \t-") + any_more
    return f"{blank}*(?:{zero}|{minus}|{other})|{blank}+"


def _matches(block: pa.Buffer, pattern: str) -> bool:
    # As one value of bytes: text would be decoded, and cost twice as much.
    ends = pa.py_buffer(np.array([0, block.size], np.int32))
    value = pa.Array.from_buffers(pa.binary(), 1, [None, ends, block])
    return bool(pc.match_substring_regex(value, pattern)[0].as_py())


def blocks(text: pa.Buffer) -> Iterator[pa.Buffer]:
    """Cut text behind newlines, into parts of about :data:`BLOCK_BYTES`."""
    view = np.frombuffer(text, np.uint8)
    begin, size = 0, len(view)
    while begin < size:
        end = min(begin + BLOCK_BYTES, size)
        while end < size and view[end - 1] != LF:
            found = np.flatnonzero(view[end : end + BLOCK_BYTES] == LF)
            end = end + int(found[0]) + 1 if len(found) else min(end + BLOCK_BYTES, size)
        yield text.slice(begin, end - begin)
        begin = end


def refuse_many_columns(columns: int, max_columns: int, file: Path) -> None:
    """Refuse a table of more columns than allowed, before its rows are looked at.

    Raises:
        TableError: it has more.
    """
    if columns > max_columns:
        raise TableError(
            f"{file} has {columns:,} columns, at most {max_columns:,} are read; write a file with those that "
            f"matter, or train on tk.read_table(..., max_columns={columns})",
            path=file,
        )
