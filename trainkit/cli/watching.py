"""Follows a job until it has ended, and what Ctrl-C does meanwhile."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Protocol

from trainkit.api.job import Job
from trainkit.cli.exits import BY_STATUS, Exit
from trainkit.files.metrics import as_recorded
from trainkit.files.record import Record
from trainkit.files.streams import tail

POLL_S = 0.1
#: What a line of the metrics stream holds beside the metrics.
_PLACE = ("attempt", "epoch", "step", "time")


@dataclass(frozen=True)
class Epoch:
    """The last value of each metric in one epoch."""

    number: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Update:
    """A job as it is now, and what happened since the update before."""

    record: Record
    epochs: list[Epoch]
    warnings: list[str]
    passed: list[str] = field(default_factory=list)


class Screen(Protocol):
    """Where updates are drawn."""

    def show(self, update: Update) -> None:
        """Draw the job as it is now."""

    def say(self, text: str) -> None:
        """Tell the user something about the watching itself."""

    def close(self, record: Record | None) -> None:
        """Leave the terminal as a terminal should be; with a record, sum it up."""


class EpochReader:
    """Gathers the lines of a metrics stream into epochs."""

    def __init__(self) -> None:
        self._place: tuple[int, int] | None = None
        self._metrics: dict[str, float] = {}

    def read(self, lines: list[dict[str, Any]], *, ended: bool) -> list[Epoch]:
        """Return the epochs that are over.

        Args:
            lines: what was appended to the stream since.
            ended: whether nothing will follow.
        """
        found: list[Epoch] = []
        for line in filter(None, map(as_recorded, lines)):
            place = (line["attempt"], line.get("epoch", 0))
            if place != self._place:
                found += self._finished()
                self._place, self._metrics = place, {}
            self._metrics |= {name: value for name, value in line.items() if name not in _PLACE}
        if ended:
            found += self._finished()
        return found

    def _finished(self) -> list[Epoch]:
        done = self._place is not None and self._place[1] > 0 and bool(self._metrics)
        found = [Epoch(self._place[1], self._metrics)] if done and self._place else []
        self._place = None
        return found


def updates(job: Job, *, pause: Callable[[], object] = lambda: time.sleep(POLL_S)) -> Iterator[Update]:
    """Yield how a job is, again and again, the last time when it has ended.

    Args:
        job: the job.
        pause: waits between two looks.
    """
    reader = EpochReader()
    metrics_at = events_at = 0
    while True:
        # The record before the streams: what was logged before the end is then never missed.
        record = job.record
        lines, metrics_at = tail(job.paths.metrics, metrics_at)
        events, events_at = tail(job.paths.events, events_at)
        warnings, passed = (
            [str(event.get("message")) for event in events if event.get("event") == kind]
            for kind in ("warning", "cleared")
        )
        yield Update(record, reader.read(lines, ended=record.status.terminal), warnings, passed)
        if record.status.terminal:
            return
        pause()


class Interrupts:
    """Counts Ctrl-C, from ``with`` on, so that no half-started job is left behind.

    While a job is being prepared, the second Ctrl-C gives it up.
    """

    def __init__(self) -> None:
        self.count = 0
        self.preparing = True
        self._pid = os.getpid()

    def __enter__(self) -> Interrupts:
        self._before = signal.signal(signal.SIGINT, self._receive)
        return self

    def __exit__(self, *exception: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a forked DataLoader worker of a thread job
            signal.default_int_handler(number, frame)
        self.count += 1
        if not self.preparing:
            return
        if self.count > 1:
            raise KeyboardInterrupt
        # Not a buffered stream: the signal may have come within its write.
        os.write(2, b"\nstopping as soon as the job has its files; Ctrl-C again gives up at once\n")


def watch(job: Job, screen: Screen, interrupts: Interrupts) -> int:
    """Show a job that this command started until it has ended; Ctrl-C once stops it, twice kills it.

    Returns:
        The exit code.
    """
    interrupts.preparing = False
    asked = 0
    record = None
    try:
        for update in updates(job):
            record = update.record
            screen.show(update)
            if asked == 0 and interrupts.count > 0 and not record.status.terminal:
                asked = 1
                screen.say("stopping: it saves and ends after the current step; Ctrl-C again kills it")
                job.stop()
            if asked == 1 and interrupts.count > 1 and not record.status.terminal:
                asked = 2
                _kill(job, record, screen)
    finally:
        screen.close(record if record is not None and record.status.terminal else None)
    if record is None:  # pragma: no cover - updates() yields at least once
        raise RuntimeError("no update")
    return Exit.KILLED if asked == 2 else BY_STATUS[record.status]


def _kill(job: Job, record: Record, screen: Screen) -> None:
    if record.runner != "thread":
        job.kill()
        return
    # A thread cannot be killed, but it is ours: it goes with this process, and readers see INTERRUPTED.
    screen.say("killed, together with this process; what was not saved is lost")
    screen.close(None)
    sys.stdout.flush()
    os._exit(Exit.KILLED)


def look_on(job: Job, screen: Screen) -> int:
    """Show any job until it has ended; Ctrl-C only ends the looking.

    Returns:
        The exit code.
    """
    record = None
    try:
        for update in updates(job):
            record = update.record
            screen.show(update)
    except KeyboardInterrupt:
        screen.say(f"{job.name} goes on; trainkit stop {job.id} stops it")
        screen.close(None)
        return Exit.KILLED
    screen.close(record)
    return BY_STATUS[record.status] if record is not None else Exit.OK
