"""What a job writes while it runs: its metrics, its output, and all of it as it happens."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

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
    if request.tail is None:
        return _logs(job.paths.output, request.since or 0)
    size = _size(job.paths.output)
    piece = _logs(job.paths.output, max(request.since or 0, size - PIECE_BYTES))
    lines = piece.logs.splitlines(keepends=True)[-request.tail :] if request.tail else []
    return LogsAnswer(logs="".join(lines), next=piece.next, more=False)


def _metrics(path: Path, since: int) -> MetricsAnswer:
    lines, offset = _lines(path, since)
    return MetricsAnswer(metrics=lines, next=offset, more=_size(path) > offset > since)


def _lines(path: Path, since: int) -> tuple[list[dict[str, Any]], int]:
    # An offset behind the end may be farther away than the file system can seek.
    return tail(path, since, limit_bytes=PIECE_BYTES) if since < _size(path) else ([], since)


def _logs(path: Path, since: int) -> LogsAnswer:
    if since >= _size(path):
        return LogsAnswer(logs="", next=since, more=False)
    with open(path, "rb") as file:
        file.seek(since)
        data = file.read(PIECE_BYTES)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(data)
    offset = since + len(data) - len(decoder.getstate()[0])  # a character that is not whole yet is left for later
    return LogsAnswer(logs=text, next=offset, more=len(data) == PIECE_BYTES)


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
        if metrics.metrics:
            self.cursor = msgspec.structs.replace(self.cursor, metrics=metrics.next)
            yield "metrics", metrics
        happened, offset = _lines(paths.events, self.cursor.events)
        if happened:
            self.cursor = msgspec.structs.replace(self.cursor, events=offset)
            yield "events", EventsAnswer(events=happened)
        logs = _logs(paths.output, self.cursor.output)
        if logs.logs:
            self.cursor = msgspec.structs.replace(self.cursor, output=logs.next)
            yield "logs", logs
        if record.status.terminal and not (metrics.metrics or happened or logs.logs):
            self.over = True
            yield "end", EndEvent(status=record.status)

    @property
    def at_end(self) -> bool:
        """Whether the job is over and all of it was read before the cursor."""
        paths, seen = self._job.paths, self.cursor
        files = ((paths.metrics, seen.metrics), (paths.events, seen.events), (paths.output, seen.output))
        return self._job.done() and all(_size(path) <= offset for path, offset in files)
