"""The tail of what a job printed, as a page can show it: no escape codes, no overwritten progress lines."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

#: What is kept and shown, at most.
TAIL_BYTES, TAIL_LINES = 16 << 10, 200
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(\x07|\x1b\\)|\x1b[@-_]")
_OTHER_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class Printed:
    """Follows an output file.

    Args:
        path: the file; it may be missing, and may shrink.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._text = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def read(self) -> tuple[str, bool]:
        """Return what was printed since the last call, and whether it replaces all that came before."""
        try:
            with open(self.path, "rb") as file:
                size = file.seek(0, 2)
                anew = size < self._offset or size - self._offset > TAIL_BYTES
                if size == self._offset:
                    return "", False
                if anew:
                    self._offset = max(0, size - TAIL_BYTES)
                    self._text = ""
                    self._decoder.reset()
                file.seek(self._offset)
                data = file.read(TAIL_BYTES)
        except FileNotFoundError:
            return "", False
        self._offset += len(data)
        new = clean(self._decoder.decode(data))
        self._text = self._text[-TAIL_BYTES:] + new
        return (self.tail(), True) if anew else (new, False)

    def tail(self) -> str:
        """Return the last lines."""
        return "".join(shown(self._text).splitlines(keepends=True)[-TAIL_LINES:])


def clean(text: str) -> str:
    r"""Return the text without escape codes and control characters; line ends and tabs stay.

    >>> clean("\x1b[31mred\x1b[0m\ttext\r\n")
    'red\ttext\n'
    """
    return _OTHER_CONTROLS.sub("", _ESCAPES.sub("", text)).replace("\r\n", "\n")


def shown(text: str) -> str:
    r"""Return what a terminal would show of lines that overwrite themselves.

    >>> shown("10 %\r50 %\r100 %\ndone")
    '100 %\ndone'
    """
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
