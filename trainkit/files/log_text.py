r"""What a terminal shows of a job's output: lines that were overwritten are gone, and so are control sequences.

A progress bar writes a frame, goes back to the start of its line (``\r``) and writes the next frame over it;
nested bars also move up and down (``ESC [ A``).  The panel, ``job.logs()``, the command line and HTTP all show
what this module makes of it.
"""

from __future__ import annotations

import itertools
import re

#: Rows above the cursor that can still be changed: more than the height of a terminal.
CHANGEABLE_ROWS = 64
#: A control sequence is not longer than this; a longer one is text.
_LONGEST_SEQUENCE = 1024
#: The cursor does not go farther than this beyond the end of a row, however far a sequence sends it.
_FARTHEST = 1000

#: What has a meaning of its own: the control characters, in UTF-8, except newline and tab.
_CONTROL = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")
_CONTROL_OF_TWO_BYTES = re.compile(rb"\xc2[\x80-\x9f]")
_ANY_CONTROL = re.compile(_CONTROL.pattern + b"|" + _CONTROL_OF_TWO_BYTES.pattern)
#: The same as bytes, except for the carriage return, for which a line needs no cursor.
_CURSOR_BYTES = bytes(({*range(32)} - set(b"\t\n\r")) | {0x7F})
#: Colours, and the deletion of the rest of a line: they make no difference to a row that is begun anew.
_STYLE = re.compile(rb"\x1b\[[0-9;:]*[mK]")
_COLOUR = re.compile(rb"\x1b\[[0-9;:]*m")
_TOKEN = re.compile(
    rb"(?P<text>(?:[^\x00-\x08\x0b-\x1f\x7f\xc2]+|\xc2(?![\x80-\x9f]))+)"
    rb"|\x1b\[(?P<arguments>[0-9;:<=>?]*)[ -/]*(?P<command>[@-~])"
    rb"|\x1b[\]P^_X][^\x07\x1b]*(?:\x07|\x1b\\)"  # titles, links and other texts for the terminal itself
    rb"|\x1b[ -/]*[0-~]"
    rb"|\xc2[\x80-\x9f]|[\x00-\x08\x0b-\x1f\x7f]"
)
#: A character or a control sequence whose end is missing.
_INCOMPLETE = re.compile(
    rb"(?:\x1b(?:\[[0-9;:<=>?]*[ -/]*|[\]P^_X][^\x07\x1b]*\x1b?|[ -/]*)?"
    rb"|[\xc2-\xdf]|[\xe0-\xef][\x80-\xbf]?|[\xf0-\xf4][\x80-\xbf]{0,2})\Z"
)


class Screen:
    r"""The rows that a terminal shows after it received some bytes; its width and height have no limit.

    Args:
        offset: where in the file the first byte stands.
        row_chars: a longer row is cut, so that output without newlines takes no memory; without it none is.

    Attributes:
        rows: what is kept, without newlines.
        first: how many rows were taken away before the first of ``rows``.
        changed: the number of the first row that changed since somebody set this; the first row ever has number 0.

        left_top: whether the cursor was sent above the first of ``rows``, where it stays.

    >>> screen = Screen()
    >>> screen.feed(b"begin\n10 %\r50 %\r\x1b[32m100 %")
    >>> screen.rows
    ['begin', '100 %']
    """

    def __init__(self, offset: int = 0, *, row_chars: int | None = None) -> None:
        self.rows: list[str] = [""]
        self.first = self.changed = 0
        self.left_top = False
        self._row_chars = row_chars
        self._row = self._column = 0
        self._returned = False  # whether a carriage return came last: what follows begins the row anew
        self._overwritten: set[int] = set()
        self._offset = offset
        self._began = [offset]  # of each row, where in the file that which it shows now begins
        self._held = b""

    def feed(self, data: bytes) -> None:
        """Receive bytes; a character or control sequence that is cut at the end waits for the next call."""
        if self._held:
            data, self._held = self._held + data, b""
        tail = data[-_LONGEST_SEQUENCE:]
        if (cut := _INCOMPLETE.search(tail)) is not None:
            self._held = tail[cut.start() :]
            data = data[: len(data) - len(self._held)]
        self._receive(data)

    def finish(self) -> None:
        """Take what waits for its end as it is, or leave it out if it is not text: nothing follows."""
        held, self._held = self._held, b""
        if held.startswith(b"\x1b"):
            self._offset += len(held)
        else:
            self._receive(held)

    def take_settled(self, *, changeable: int = 0) -> str:
        """Take away the rows that will not change any more, and return them as text.

        Args:
            changeable: keep this many rows above the cursor.
        """
        count = max(0, self._row - changeable)
        text = "".join(f"{self.shown(index)}\n" for index in range(count))
        self.forget(count)
        return text

    def forget(self, count: int) -> None:
        """Take away the first rows; the row with the cursor and those below stay."""
        count = min(count, self._row)
        if count <= 0:
            return
        del self.rows[:count], self._began[:count]
        self.first += count
        self._row -= count
        self.changed = max(self.changed, self.first)
        self._overwritten = {row for row in self._overwritten if row >= self.first}

    def shown(self, index: int) -> str:
        """Return one of ``rows`` as it is shown: without the spaces that cover an earlier frame.

        Args:
            index: of the row; -1 is the last.
        """
        index %= len(self.rows)
        row = self.rows[index]
        return row.rstrip(" ") if self.first + index in self._overwritten else row

    def rest(self) -> str:
        """Return the rows that are left as text; there is no newline after the last."""
        return "\n".join(self.shown(index) for index in range(len(self.rows)))

    @property
    def row(self) -> int:
        """The index of the row where the cursor is; rows above it are settled."""
        return self._row

    @property
    def position(self) -> int:
        """The offset in the file up to which all was received; what waits for its end is not among it."""
        return self._offset

    @property
    def restart(self) -> int:
        """The offset in the file from which another screen shows the rows from the cursor on as this one does."""
        return self._began[self._row]

    # --- details ---------------------------------------------------------------------------------

    def _receive(self, data: bytes) -> None:
        at = 0
        control = _CONTROL if _CONTROL_OF_TWO_BYTES.search(data) is None else _ANY_CONTROL
        while at < len(data):
            found = control.search(data, at)
            plain_until = len(data) if found is None else data.rfind(b"\n", at, found.start()) + 1
            if plain_until > at and self._is_at_end():
                self._extend(data[at:plain_until])
                at = plain_until
                continue
            newline = data.find(b"\n", at)
            self._write_line(data[at:] if newline < 0 else data[at:newline])
            if newline < 0:
                return
            self._offset += 1
            self._go_down()
            at = newline + 1

    def _is_at_end(self) -> bool:
        return self._row == len(self.rows) - 1 and self._column == len(self.rows[-1]) and not self._returned

    def _extend(self, data: bytes) -> None:
        """Receive lines of text, as most output is, in one go."""
        self.changed = min(self.changed, self.first + self._row)
        texts = data.decode("utf-8", "replace").split("\n")
        self.rows[-1] = self._cut(self.rows[-1] + texts[0])
        self.rows += map(self._cut, texts[1:])
        ends = itertools.accumulate(len(line) + 1 for line in data.split(b"\n")[:-1])
        self._began += [self._offset + end for end in ends]
        self._offset += len(data)
        self._row = len(self.rows) - 1
        self._column = len(self.rows[-1])

    def _write_line(self, line: bytes) -> None:
        before, returned, frame = line.rstrip(b"\r").rpartition(b"\r")
        if (
            returned
            and _STYLE.sub(b"", frame[:_LONGEST_SEQUENCE])[:1] > b"\x1f"
            and not _needs_cursor(_STYLE.sub(b"", before))
        ):
            # Only the last frame is seen, since it has text.
            self._returned, self._column = True, 0
            self._offset += len(before) + 1
            line = line[len(before) + 1 :]
        text = _COLOUR.sub(b"", line) if b"\x1b" in line else line
        if not _needs_cursor(text) and b"\r" not in text.rstrip(b"\r"):
            self._write(text.rstrip(b"\r"), self._offset)
            if text.endswith(b"\r"):
                self._returned, self._column = True, 0
        else:
            for token in _TOKEN.finditer(line):
                self._obey(token)
        self._offset += len(line)

    def _obey(self, token: re.Match[bytes]) -> None:
        if token["text"] is not None:
            self._write(token["text"], self._offset + token.start())
        elif token["command"] is not None:
            self._move(token["command"], token["arguments"])
        elif token[0] == b"\r":
            self._returned, self._column = True, 0
        elif token[0] == b"\b":
            self._go_to_column(self._column - 1)

    def _write(self, data: bytes, offset: int) -> None:
        if not data:
            return
        text = data.decode("utf-8", "replace")
        row = self.rows[self._row]
        if self._returned:
            self._overwritten.add(self.first + self._row)
            row, self._column, self._returned = "", 0, False
            self._began[self._row] = offset
        if self._column >= len(row):
            row = row.ljust(self._column) + text
        else:
            row = row[: self._column] + text + row[self._column + len(text) :]
        self._column += len(text)
        self._replace(row)

    def _replace(self, row: str) -> None:
        self.rows[self._row] = row = self._cut(row)
        self._column = min(self._column, len(row))
        self.changed = min(self.changed, self.first + self._row)

    def _cut(self, row: str) -> str:
        return row if self._row_chars is None or len(row) <= self._row_chars else row[: self._row_chars] + "…"

    def _move(self, command: bytes, arguments: bytes) -> None:
        first = arguments.split(b";")[0]
        count = min(int(first), _FARTHEST) if first.isdigit() and len(first) < 6 else 0
        row = self.rows[self._row]
        if command in b"AF":
            self._go_to_row(self._row - max(1, count))
        elif command in b"BE":
            self._go_to_row(min(self._row + max(1, count), len(self.rows) - 1))
        elif command == b"C":
            self._go_to_column(self._column + max(1, count))
        elif command == b"D":
            self._go_to_column(self._column - max(1, count))
        elif command == b"G":
            self._go_to_column(count - 1)
        elif command == b"K" and not arguments.startswith(b"?"):
            self._overwritten.add(self.first + self._row)
            self._replace({0: row[: self._column], 1: " " * self._column + row[self._column :]}.get(count, ""))
        elif command == b"J" and count == 0:
            self._replace(row[: self._column])
            del self.rows[self._row + 1 :], self._began[self._row + 1 :]
        if command in b"EF":
            self._go_to_column(0)

    def _go_to_column(self, column: int) -> None:
        farthest = len(self.rows[self._row]) + _FARTHEST
        self._column, self._returned = min(max(0, column), farthest), False

    def _go_to_row(self, row: int) -> None:
        self.left_top = self.left_top or row < 0
        self._row = max(0, row)

    def _go_down(self) -> None:
        self._row += 1
        self._column, self._returned = 0, False
        if self._row == len(self.rows):
            self.rows.append("")
            self._began.append(self._offset)
            self.changed = min(self.changed, self.first + self._row)
        self._began[self._row] = self._offset


def _needs_cursor(line: bytes) -> bool:
    """Whether a line holds more than text and carriage returns."""
    if len(line.translate(None, _CURSOR_BYTES)) != len(line):
        return True
    return b"\xc2" in line and _CONTROL_OF_TWO_BYTES.search(line) is not None
