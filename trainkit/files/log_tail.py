"""Reads a job's output log as people see it: all of it, its last lines, or piece by piece while it grows.

No reader holds more of the file in memory than it returns, and one that returns the last lines reads only those.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from trainkit.files.log_text import CHANGEABLE_ROWS, Screen
from trainkit.files.opening import opened

#: How much is read at once.
_CHUNK_BYTES = 1 << 20
#: Of a longer line only the beginning is shown, by the last lines of a log and by readers that follow it.
ROW_CHARS = 1 << 20
#: The start of a line is looked for in this much of the file before its end; frames of a progress bar count here.
_LONGEST_LINE_BYTES = 64 << 20
#: How many lines before the last ones are read too: from there a row can be reached by moving up.
_ROWS_BEFORE = 16
#: What a panel keeps and shows, at most, and how much it reads at once.
PANEL_CHARS, PANEL_ROWS, PANEL_ROW_CHARS, PANEL_READ_BYTES = 32 << 10, 200, 4096, 256 << 10


def read_log(path: Path) -> str:
    """Return all of a log.

    Raises:
        FileNotFoundError: there is no such file.
    """
    screen = Screen()
    parts = []
    with opened(path) as file:
        while data := file.read(_CHUNK_BYTES):
            screen.feed(data if data.endswith(b"\n") else data + file.readline())
            parts.append(screen.take_settled(changeable=CHANGEABLE_ROWS))
    screen.finish()
    return "".join([*parts, screen.rest()])


def read_last_lines(path: Path, count: int) -> str:
    """Return the last lines of a log; only the end of the file is read.

    Args:
        path: the log.
        count: how many lines, ≥ 0.

    Raises:
        FileNotFoundError: there is no such file.
    """
    with opened(path) as file:
        screen = _last_rows(file, count, lowest=0)
    screen.finish()
    return screen.rest() if count else ""


def _last_rows(file: BinaryIO, count: int, *, lowest: int) -> Screen:
    """Return a screen of the last lines of a file, of which nothing before an offset is read."""
    size = file.seek(0, os.SEEK_END)
    newlines = count + _ROWS_BEFORE
    while True:
        start = _start_of_lines(file, size, newlines, lowest)
        screen = Screen(start, row_chars=ROW_CHARS)
        file.seek(start)
        left = size - start
        while left and (data := file.read(min(left, _CHUNK_BYTES))):
            left -= len(data)
            screen.feed(data)
            screen.forget(screen.row - max(count, CHANGEABLE_ROWS))
        shown = len(screen.rows) - (not screen.shown(-1))
        # Bars that move up write more newlines than they show lines.
        if (shown >= count and not screen.left_top) or start <= lowest or size - start >= _LONGEST_LINE_BYTES:
            screen.forget(shown - count)
            return screen
        newlines *= 8


def _start_of_lines(file: BinaryIO, size: int, count: int, lowest: int) -> int:
    """Return where the last lines of a file begin."""
    at = found_at = size
    found = -1  # the newline at the very end begins no line
    while at > lowest and found_at - at < _LONGEST_LINE_BYTES:
        begin = max(lowest, at - _CHUNK_BYTES)
        file.seek(begin)
        data = file.read(at - begin)
        if at == size and not data.endswith(b"\n"):
            found = 0
        newlines = data.count(b"\n")
        if found + newlines >= count:
            newline = len(data)
            for _ in range(count - found):
                newline = data.rfind(b"\n", 0, newline)
            return begin + newline + 1
        if newlines:
            found_at = begin
        found += newlines
        at = begin
    return max(at, lowest)


class LogReader:
    """Follows a log line by line, from its beginning or its last lines on.

    Args:
        path: the log.
        tail: with how many last lines to begin; without it with the first line.

    Raises:
        FileNotFoundError: there is no such file.
    """

    def __init__(self, path: Path, tail: int | None) -> None:
        self._file = opened(path)
        self._screen = Screen(row_chars=ROW_CHARS)
        if tail is not None:
            self._screen = _last_rows(self._file, tail, lowest=0)

    def __enter__(self) -> LogReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def read(self) -> Iterator[tuple[str, str]]:
        """Yield what was appended: the lines that will not change any more, and what follows them."""
        while True:
            data = self._file.read(_CHUNK_BYTES)
            self._screen.feed(data)
            yield self._screen.take_settled(), self._screen.rest()
            if len(data) < _CHUNK_BYTES:
                return

    def finish(self) -> str:
        """Return what is left once nothing will be appended any more."""
        self._screen.finish()
        return self._screen.rest()


class Piece(NamedTuple):
    """A part of a log.

    Attributes:
        text: the lines that will not change any more.
        line: what follows them and may still change: the beginning of an unfinished line, a progress bar.
        next: the offset from which the next piece shows what follows ``text``.
        more: whether the file has more now.
    """

    text: str
    line: str
    next: int
    more: bool


def read_piece(path: Path, offset: int, *, limit_bytes: int, ended: bool) -> Piece:
    """Return what a log has from an offset on.

    Args:
        path: the log; a missing file reads as empty.
        offset: the ``next`` of the piece before, or 0.
        limit_bytes: how much is read at most.
        ended: whether nothing will be appended any more.
    """
    try:
        with opened(path) as file:
            size = file.seek(0, os.SEEK_END)
            if offset >= size:
                return Piece("", "", offset, more=False)
            file.seek(offset)
            data = file.read(limit_bytes)
    except FileNotFoundError:
        return Piece("", "", offset, more=False)
    screen = Screen(offset)
    screen.feed(data)
    more = offset + len(data) < size
    text = screen.take_settled()
    if more and screen.restart == offset:
        # One line that is longer than a piece: it comes in parts.
        return Piece(screen.rest(), "", screen.position, more)
    return _piece(screen, text, more=more, ended=ended)


def read_last_piece(path: Path, count: int, *, since: int, limit_bytes: int, ended: bool) -> Piece:
    """Return the last lines of a log as a piece; what stands before an offset is left out.

    Args:
        path: the log; a missing file reads as empty.
        count: how many lines, ≥ 0.
        since: the offset.
        limit_bytes: how much is read at most.
        ended: whether nothing will be appended any more.
    """
    try:
        with opened(path) as file:
            size = file.seek(0, os.SEEK_END)
            if since >= size:
                return Piece("", "", since, more=False)
            screen = _last_rows(file, count, lowest=max(since, size - limit_bytes))
    except FileNotFoundError:
        return Piece("", "", since, more=False)
    piece = _piece(screen, screen.take_settled(), more=False, ended=ended)
    return piece if count else piece._replace(text="", line="")


def _piece(screen: Screen, text: str, *, more: bool, ended: bool) -> Piece:
    if ended and not more:
        screen.finish()
        return Piece(text + screen.rest(), "", screen.position, more)
    line = screen.rest()
    return Piece(
        text, line if len(line) <= PANEL_ROW_CHARS else line[:PANEL_ROW_CHARS] + "…", screen.restart, more
    )


class LogTail:
    """Follows the end of a log, as a panel shows it.

    Args:
        path: the log; it may be missing, and may shrink.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._screen = self._new_screen(0)

    def read(self) -> bool:
        """Read what was appended since the last call; return whether there was anything."""
        try:
            with opened(self.path) as file:
                size = file.seek(0, os.SEEK_END)
                if size == self._offset:
                    return False
                skips = size < self._offset or size - self._offset > PANEL_READ_BYTES
                if skips:
                    self._offset = max(0, size - PANEL_READ_BYTES)
                    # One row is left out: a page that has the rows before it forgets them.
                    self._screen = self._new_screen(self._screen.first + len(self._screen.rows) + 1)
                file.seek(self._offset)
                data = file.read(PANEL_READ_BYTES)
        except FileNotFoundError:
            return False
        begins_within_line = skips and self._offset > 0
        self._offset += len(data)
        screen = self._screen
        screen.feed(data[data.find(b"\n") + 1 :] if begins_within_line else data)
        screen.forget(len(screen.rows) - 1 - PANEL_ROWS)
        chars = sum(map(len, screen.rows))
        while chars > PANEL_CHARS and screen.row > 0:
            chars -= len(screen.rows[0])
            screen.forget(1)
        return True

    def take_changes(self) -> tuple[int, str]:
        """Return the number of the first row that changed since the last call, and the rows from it on as text."""
        screen = self._screen
        first = max(screen.changed, screen.first)
        screen.changed = screen.first + len(screen.rows)
        return first, "\n".join(screen.shown(row) for row in range(first - screen.first, len(screen.rows)))

    def all(self) -> tuple[int, str]:
        """Return the number of the first row that is kept, and all rows as text."""
        self._screen.changed = self._screen.first
        return self.take_changes()

    @staticmethod
    def _new_screen(first: int) -> Screen:
        screen = Screen(row_chars=PANEL_ROW_CHARS)
        screen.first = screen.changed = first
        return screen
