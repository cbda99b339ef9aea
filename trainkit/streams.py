"""Append-only files of JSON lines: one writer, any number of readers that tail.

A line is appended by one ``os.write``; a line torn by a kill is closed when the file is next opened, and
readers pass over it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from trainkit.record import from_plain, to_plain


def encode_line(item: Mapping[str, Any]) -> bytes:
    """Return one strict JSON line.

    >>> encode_line({"step": 5, "loss": float("nan")})
    b'{"step":5,"loss":"NaN"}\\n'
    """
    return msgspec.json.encode(to_plain(item)) + b"\n"


def write_all(fd: int, data: bytes) -> None:
    """Write all of the data: on a full disk ``os.write`` may write less without an error."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


class Appender:
    """The one writer of a stream."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        heal(self._fd)

    def append(self, items: Iterable[Mapping[str, Any]]) -> None:
        """Append lines, all in one write."""
        data = b"".join(encode_line(item) for item in items)
        if not data:
            return
        before = os.fstat(self._fd).st_size
        try:
            write_all(self._fd, data)
        except OSError:
            os.ftruncate(self._fd, before)  # all or nothing, so that trying again repeats no line
            raise

    def sync(self) -> None:
        """Return when what was appended is on the disk."""
        os.fsync(self._fd)

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def heal(fd: int) -> None:
    """Close a last line that a kill has torn, so that the next one starts fresh."""
    size = os.fstat(fd).st_size
    if not size:
        return
    os.lseek(fd, size - 1, os.SEEK_SET)
    if os.read(fd, 1) != b"\n":
        write_all(fd, b"\n")


def tail(path: Path, offset: int = 0, *, limit_bytes: int = -1) -> tuple[list[dict[str, Any]], int]:
    """Read the whole lines of a stream from a byte offset on.

    Args:
        path: the stream; a missing file reads as empty.
        offset: bytes to pass over, as returned by the call before.
        limit_bytes: read no more than that at once, and the line that is cut by it; without it all there is.

    Returns:
        The lines as dicts, and the offset to go on from.  A torn last line is left for the next call;
        a torn line within the file is passed over.
    """
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            data = file.read(limit_bytes)
            if len(data) == limit_bytes and not data.endswith(b"\n"):
                data += file.readline()
    except FileNotFoundError:
        return [], offset
    end = data.rfind(b"\n") + 1
    items = []
    for line in data[:end].splitlines():
        try:
            item = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        if isinstance(item, dict):
            items.append(from_plain(item))
    return items, offset + end
