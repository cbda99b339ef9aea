"""Append-only files of JSON lines: one writer, any number of readers that tail.

A line is appended by one ``os.write``; a line torn by a kill is closed by the next that is appended, and
readers pass over it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from trainkit.errors import StoreError, telling
from trainkit.files.opening import open_fd, opened
from trainkit.files.plain import from_plain, to_plain

_encoder = msgspec.json.Encoder()
#: A longer line was not written by trainkit; it is passed over, and never in memory as a whole.
MOST_LINE_BYTES = 8 << 20


def encode_line(item: Mapping[str, Any]) -> bytes:
    """Return one strict JSON line.

    >>> encode_line({"step": 5, "loss": float("nan")})
    b'{"step":5,"loss":"NaN"}\\n'
    """
    return msgspec.json.encode(to_plain(item)) + b"\n"


def encode_lines(items: Sequence[Mapping[str, Any]]) -> bytes:
    """Return what :func:`encode_line` gives for each, all in one pass where none needs its care.

    >>> encode_lines([{"step": 5, "loss": 0.5}, {"step": 6, "loss": float("nan")}])
    b'{"step":5,"loss":0.5}\\n{"step":6,"loss":"NaN"}\\n'
    """
    try:
        data = _encoder.encode_lines(items)
    except (TypeError, UnicodeEncodeError):
        pass  # mappings that are no dicts, or names that are no UTF-8
    else:
        if b"null" not in data:  # which is how the encoder writes what is not finite
            return data
    return b"".join(map(encode_line, items))


def write_all(fd: int, data: bytes) -> None:
    """Write all of the data: on a full disk ``os.write`` may write less without an error."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


class Appender:
    """The one writer of a stream.

    What the disk does not take is kept, and goes first the next time, from the very byte at which it stopped: so
    no line is lost, torn or repeated while this process lives.

    Raises:
        StoreError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with telling(path):
            self._fd = open_fd(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
            try:
                self._unwritten = bytearray(missing_newline(self._fd))
            except BaseException:
                os.close(self._fd)
                raise

    def append(self, items: Iterable[Mapping[str, Any]]) -> None:
        """Append lines, all in one write.

        Raises:
            StoreError: not all could be written; what is left is kept for the next time.
        """
        lines = encode_lines(list(items))
        if lines:
            self._unwritten += lines
            self.flush()

    def flush(self) -> None:
        """Write what an earlier time has left.

        Raises:
            StoreError: it cannot be written now either.
        """
        with telling(self.path):
            while self._unwritten:
                del self._unwritten[: os.write(self._fd, self._unwritten)]

    @property
    def left_bytes(self) -> int:
        """How much waits for the disk to take it."""
        return len(self._unwritten)

    def sync(self) -> None:
        """Return when what was appended is on the disk.

        Raises:
            StoreError: the disk does not say so.
        """
        with telling(self.path):
            os.fsync(self._fd)

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def missing_newline(fd: int) -> bytes:
    """Return what closes a last line that a kill has torn, so that the next one starts fresh."""
    size = os.fstat(fd).st_size
    if not size:
        return b""
    os.lseek(fd, size - 1, os.SEEK_SET)
    return b"" if os.read(fd, 1) == b"\n" else b"\n"


def tail(
    path: Path,
    offset: int = 0,
    *,
    limit_bytes: int = -1,
    on_unreadable: Callable[[bytes], object] = lambda line: None,
) -> tuple[list[dict[str, Any]], int]:
    """Read the whole lines of a stream from a byte offset on.

    Args:
        path: the stream; a missing file reads as empty.
        offset: bytes to pass over, as returned by the call before.  A file that is shorter by now was emptied or
            replaced, and is read anew.
        limit_bytes: read no more than that at once, and the line that is cut by it; without it all there is.
        on_unreadable: called with each line that :func:`decode_line` cannot read; it is passed over.  Of a line
            of more than :data:`MOST_LINE_BYTES` it gets the beginning.

    Returns:
        The lines as dicts, and the offset to go on from.  A torn last line is left for the next call.
    """
    items: list[dict[str, Any]] = []
    try:
        with opened(path) as file:
            if file.seek(0, os.SEEK_END) < offset:
                offset = 0
            begin = file.seek(offset)
            while limit_bytes < 0 or offset - begin < limit_bytes:
                line = file.readline(MOST_LINE_BYTES)
                if not line.endswith(b"\n"):
                    if len(line) < MOST_LINE_BYTES:
                        break  # the end, or a line that is being written
                    offset += skip_line(file)
                    on_unreadable(line)
                elif (item := decode_line(line)) is not None:
                    items.append(item)
                elif line.strip():
                    on_unreadable(line)
                offset += len(line)
    except (FileNotFoundError, NotADirectoryError):
        return [], offset
    except OSError as error:
        raise StoreError.about(error, path) from error
    return items, offset


def skip_line(file: BinaryIO) -> int:
    """Read the rest of a line, without keeping it in memory; return how many bytes it has."""
    skipped = 0
    while part := file.readline(1 << 20):
        skipped += len(part)
        if part.endswith(b"\n"):
            break
    return skipped


def attempt_of(event: Mapping[str, Any]) -> int:
    """Return to which attempt a line belongs; those that do not tell belong to the first.

    >>> attempt_of({"attempt": 3}), attempt_of({}), attempt_of({"attempt": "x"})
    (3, 1, 1)
    """
    attempt = event.get("attempt", 1)
    return attempt if isinstance(attempt, int) else 1


def decode_line(line: bytes) -> dict[str, Any] | None:
    """Return a line as a dict; None if it is torn, nested too deeply, or not a JSON object.

    >>> decode_line(b'{"step":5,"loss":"NaN"}'), decode_line(b'{"step":'), decode_line(b"[" * 5000)
    ({'step': 5, 'loss': nan}, None, None)
    """
    try:
        item = msgspec.json.decode(line)
        return from_plain(item) if isinstance(item, dict) else None
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
