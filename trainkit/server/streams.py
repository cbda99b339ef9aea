"""What a job writes while it runs: its metrics, its output, and all of it as it happens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from trainkit.files.log_tail import read_last_piece, read_piece
from trainkit.files.record import Record
from trainkit.files.streams import tail
from trainkit.server.messages import (
    Answer,
    EndEvent,
    EventsAnswer,
    JobRequest,
    LogsAnswer,
    LogsRequest,
    MetricsAnswer,
    MetricsRequest,
    StatusAnswer,
)
from trainkit.server.site import Site

#: What is read of a file at once: an answer, and what the server holds in memory, stays near this size.
PIECE_BYTES = 1 << 20


def metrics(site: Site, request: MetricsRequest) -> MetricsAnswer:
    """Return logged lines from an offset on."""
    job = site.roots.job(site.roots.store(request.root), request.job_id)
    return _metrics(job.paths.metrics, request.since)


def logs(site: Site, request: LogsRequest) -> LogsAnswer:
    """Return a piece of what the training code printed: its last lines, or from an offset on."""
    job = site.roots.job(site.roots.store(request.root), request.job_id)
    ended = job.done()  # asked before reading: what is printed last is then never missed
    since, path = request.since or 0, job.paths.output
    if request.tail is None:
        return _logs(path, since, ended=ended)
    piece = read_last_piece(path, request.tail, since=since, limit_bytes=PIECE_BYTES, ended=ended)
    return LogsAnswer(logs=piece.text, line=piece.line, next=piece.next, more=piece.more)


def _metrics(path: Path, since: int) -> MetricsAnswer:
    lines, offset = _lines(path, since)
    return MetricsAnswer(metrics=lines, next=offset, more=_size(path) > offset > since)


def _lines(path: Path, since: int) -> tuple[list[dict[str, Any]], int]:
    # An offset behind the end may be farther away than the file system can seek.
    return tail(path, since, limit_bytes=PIECE_BYTES) if since < _size(path) else ([], since)


def _logs(path: Path, since: int, *, ended: bool) -> LogsAnswer:
    piece = read_piece(path, since, limit_bytes=PIECE_BYTES, ended=ended)
    return LogsAnswer(logs=piece.text, line=piece.line, next=piece.next, more=piece.more)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


class Cursor(msgspec.Struct, frozen=True):
    """How far a follower has read, in bytes; as text it is the id of a server-sent event."""

    metrics: int = 0
    events: int = 0
    output: int = 0

    def __str__(self) -> str:
        return f"{self.metrics}-{self.events}-{self.output}"

    @classmethod
    def from_text(cls, text: str) -> Cursor:
        """Read what ``str`` wrote; anything else is the beginning.

        >>> str(Cursor.from_text("3-0-12")), str(Cursor.from_text("12"))
        ('3-0-12', '0-0-0')
        """
        parts = text.split("-")
        if len(parts) != 3 or not all(part.isascii() and part.isdigit() and len(part) < 16 for part in parts):
            return cls()
        return cls(*map(int, parts))


class Follower:
    """Follows one job.

    Args:
        site: the server.
        request: the job.
        cursor: where to go on.
    """

    def __init__(self, site: Site, request: JobRequest, cursor: Cursor) -> None:
        self.cursor = cursor
        self.over = False
        self._job = site.roots.job(site.roots.store(request.root), request.job_id)
        self._record: Record | None = None
        self._line = ""

    def news(self) -> Iterator[tuple[str, Answer]]:
        """Yield what has happened since the last call, each with the name of its event; `end` is the last.

        Raises:
            UnknownJobError: the job was deleted meanwhile.
        """
        record = self._job.record  # read first: of a job that is over, all lines are there
        paths = self._job.paths
        if record != self._record:
            self._record = record
            yield "status", StatusAnswer(status=record)
        metrics = _metrics(paths.metrics, self.cursor.metrics)
        happened, offset = _lines(paths.events, self.cursor.events)
        moved = (metrics.next, offset) != (self.cursor.metrics, self.cursor.events)
        self.cursor = msgspec.structs.replace(self.cursor, metrics=metrics.next)
        if metrics.metrics:
            yield "metrics", metrics
        self.cursor = msgspec.structs.replace(self.cursor, events=offset)
        if happened:
            yield "events", EventsAnswer(events=happened)
        logs = _logs(paths.output, self.cursor.output, ended=record.status.terminal)
        if (logs.next, logs.line) != (self.cursor.output, self._line):
            self._line = logs.line
            self.cursor = msgspec.structs.replace(self.cursor, output=logs.next)
            yield "logs", logs
        if record.status.terminal and not (moved or logs.more):
            self.over = True
            yield "end", EndEvent(status=record.status)

    @property
    def at_end(self) -> bool:
        """Whether the job is over and all of it was read before the cursor."""
        paths, seen = self._job.paths, self.cursor
        files = ((paths.metrics, seen.metrics), (paths.events, seen.events), (paths.output, seen.output))
        return self._job.done() and all(_size(path) <= offset for path, offset in files)
