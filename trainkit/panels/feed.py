"""What a panel says about one job, as messages: everything at first, then only what is new.

A feed reads nothing but files, so it serves every runner and jobs of other kernels; it knows no widget.

A message is a JSON object and binary buffers.  ``{"type": "full", "card": …, "series": […], "output": …}`` draws a
job from nothing; ``{"type": "delta", …}`` holds what changed since the message before, whose ``seq`` is one less.
A series names, in ``at``, the buffer with its steps (float64); the next one holds its values (float32).
``output`` is a pair: the number of a row of the log, and the rows from it on, which replace those of the page.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import psutil

from trainkit.api import view
from trainkit.api.charts import TRAINING, charts
from trainkit.errors import TrainkitError, UnknownJobError
from trainkit.files.log_tail import LogTail
from trainkit.files.modelfile import model_file
from trainkit.files.owners import Process, is_running
from trainkit.files.paths import jobs_folder
from trainkit.files.record import Record, Status
from trainkit.files.store import SILENCE_S, Store
from trainkit.panels.controls import Controls
from trainkit.panels.happened import Happened
from trainkit.panels.lines import Floats
from trainkit.panels.series import History, thinned

Message = tuple[dict[str, Any], list[bytes]]

#: Points of one metric in a full message, and in one delta.
POINTS, DELTA_POINTS = 1200, 200
#: Beyond so many points sent, the browser gets a thinned set again.
MOST_POINTS = 4000
#: A front end may miss a delta while it starts, or while the server is busy: all is sent again so often.
_FULL_EVERY_S, _SETTLING_S = 20.0, 3.0
_MEMORY_EVERY_S = 1.0
_FRESH_S = 30.0


class JobFeed:
    """The messages about one job.

    Args:
        store: where it is.
        job_id: the job.
        clock: Unix seconds.
        ticks: seconds that never go back.

    Attributes:
        record: as it was last seen.
        ended: whether it is over and all of it was read.
        deleted: whether it is gone; what was read of it stays.

    Raises:
        UnknownJobError: there is no such job.
        RecordError: its record is damaged.
    """

    def __init__(
        self,
        store: Store,
        job_id: str,
        *,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = store
        self.job_id = job_id
        self.paths = store.paths(job_id)
        self.history = History(self.paths.metrics)
        self.record = store.observe(job_id)
        self.ended = self.deleted = False
        self._log = LogTail(self.paths.output)
        self._clock, self._ticks = clock, ticks
        self._began = ticks()
        self._seq = 0
        self._full_at = -_FULL_EVERY_S
        self._full_wanted = True
        self._card: dict[str, Any] = {}
        self._generation = 0
        self._sent: dict[str, int] = {}  # points of a metric that the browser knows of
        self._held: dict[str, int] = {}  # points of a metric that the browser holds
        self._memory: tuple[float, int | None] = (-_MEMORY_EVERY_S, None)
        self._heard: tuple[float | None, float] = (None, ticks())
        self._rivals: list[str] | None = None
        self._parent_name: str | None = None
        self._happened = Happened(self.paths.events)
        self._controls = Controls()

    def want_full(self) -> None:
        """Let the next message be a full one: a browser has come that knows nothing."""
        self._full_wanted = True

    def next(self) -> Message | None:
        """Return what is new since the last call, or None.

        Raises:
            RecordError: the record is damaged.
        """
        told = self.deleted
        # The record first: if it is terminal, all that the streams will ever hold is in them.
        if not self._observe():
            return None if told and not self._full_wanted else self._farewell()
        record = self.record
        grown = self.history.read()
        printed = self._log.read()
        card = self.card(record)
        ended, self.ended = self.ended, record.status.terminal and self.history.complete
        now = self._ticks()
        starting = now - self._began < _SETTLING_S
        if (
            self._full_wanted
            or self.ended != ended
            or self.history.generation != self._generation
            or any(held > MOST_POINTS for held in self._held.values())
            or ((grown or card != self._card) and (starting or now - self._full_at >= _FULL_EVERY_S))
        ):
            return self._full(card, now)
        changed = {key: value for key, value in card.items() if self._card.get(key) != value}
        if not (grown or printed or changed):
            return None
        self._card = card
        self._seq += 1
        content: dict[str, Any] = {"type": "delta", "seq": self._seq, "card": changed}
        if printed:
            content["output"] = self._log.take_changes()
        buffers: list[bytes] = []
        content["series"] = [
            self._series(name, buffers, self._sent.get(name, 0), DELTA_POINTS)
            for name, points in self.history.metrics.items()
            if points.count > self._sent.get(name, 0)
        ]
        return content, buffers

    def _observe(self) -> bool:
        """Look at the record; return whether the job is still there.  It may be deleted at any time."""
        try:
            self.record = self.store.observe(self.job_id)
        except UnknownJobError:
            self.deleted = True
        return not self.deleted

    def _farewell(self) -> Message:
        """Say what was last seen of a job that was deleted."""
        self.ended = True
        nothing: dict[str, Any] = {"actions": [], "controls": [], "rivals": [], "silent_s": None, "live": False}
        card = {
            **(self._card or self.card(self.record)),
            **nothing,
            "status": "DELETED",
            "message": "Its files were deleted",
        }
        return self._full(card, self._ticks())

    def full(self) -> Message:
        """Return all there is, for a panel that is just being made."""
        if not self._observe():
            return self._farewell()
        self.history.read()
        self._log.read()
        self.ended = self.record.status.terminal and self.history.complete
        return self._full(self.card(self.record), self._ticks())

    @property
    def changes(self) -> list[dict[str, Any]]:
        """The live changes that count, as :meth:`~trainkit.panels.happened.Happened.changes` returns them."""
        return self._happened.changes(self.history.begins)

    def window(self, names: list[str], low: float, high: float) -> Message:
        """Return finer points of some metrics within a range of steps."""
        buffers: list[bytes] = []
        series = []
        for name in names:
            if (points := self.history.metrics.get(name)) is not None:
                part = points.between(low, high)
                series.append(_packed(name, points.x[part], points.y[part], POINTS, buffers))
        return {"type": "window", "low": low, "high": high, "series": series}, buffers

    def card(self, record: Record) -> dict[str, Any]:
        """Return what is shown of the record, as JSON can hold it."""
        now = self._clock()
        self._happened.read()
        steerable = record.status in (Status.RUNNING, Status.PAUSED)
        seen = view.view(record, now=now, memory_bytes=self._memory_bytes(record))
        card = dataclasses.asdict(seen)
        card |= {
            "status": str(record.status),
            "live": not record.status.terminal,
            "phase": str(record.phase or ""),
            "job_id": record.job_id,
            "root": str(self.store.root),
            "runner": record.runner,
            "host": record.host or "",
            "params": [(name, value.removeprefix(f"{self.store.root}{os.sep}")) for name, value in seen.params],
            "ended_by": str(record.ended_by or ""),
            "progress_known": bool(record.total_steps or record.epochs),
            "checkpoint": record.checkpoint.path if record.checkpoint else "",
            "model": str(model.relative_to(self.store.root)) if (model := model_file(self.paths)) else "",
            "files": str(self.paths.folder.relative_to(self.store.root)),
            "facts": [*self._descent(record), *seen.facts],
            "best": None,
            "silent_s": self._silent_s(record),
            "warnings": list(self._happened.warnings),
            "changes": self.changes,
            "ranks": ranks(record),
            "controls": self._controls.of(record.params) if steerable else [],
            "rivals": self._still_rivals(record),
            **_charts(self.history.metrics),
        }
        if record.best is not None:
            card["best"] = {
                "metric": record.best.metric,
                "step": record.best.step,
                "value": _finite(record.best.value),
            }
        return card

    # --- details ---------------------------------------------------------------------------------

    def _full(self, card: dict[str, Any], now: float) -> Message:
        self._card, self._full_at, self._full_wanted = card, now, False
        self._generation = self.history.generation
        self._seq += 1
        self._sent, self._held = {}, {}
        buffers: list[bytes] = []
        series = [self._series(name, buffers, 0, POINTS) for name in self.history.metrics]
        return {
            "type": "full",
            "seq": self._seq,
            "card": card,
            "series": series,
            "output": self._log.all(),
        }, buffers

    def _series(self, name: str, buffers: list[bytes], since: int, count: int) -> dict[str, Any]:
        points = self.history.metrics[name]
        packed = _packed(name, points.x[since:], points.y[since:], count, buffers)
        self._sent[name] = points.count
        self._held[name] = self._held.get(name, 0) + packed["count"]
        return packed | {"total": points.count}

    def _descent(self, record: Record) -> list[tuple[str, str]]:
        """Of which job this one is a branch or a repetition."""
        parent = record.parent
        if parent is None:
            return []
        if self._parent_name is None:
            try:
                self._parent_name = view.clean(self.store.read(parent.job_id).name)
            except TrainkitError:
                self._parent_name = "a job that is gone"
        return [
            ("branch of", f"{self._parent_name} at step {parent.step}")
            if parent.step
            else ("repeats", self._parent_name)
        ]

    def _memory_bytes(self, record: Record) -> int | None:
        """The resident memory of the process that runs the job, if it is of this machine."""
        if record.status.terminal or not (record.pid and record.process_started_at and record.boot_id):
            return None
        measured_at, found = self._memory
        now = self._ticks()
        if now - measured_at >= _MEMORY_EVERY_S:
            identity = Process(record.pid, record.process_started_at, record.boot_id, record.host or "")
            try:
                found = int(psutil.Process(record.pid).memory_info().rss) if is_running(identity) else None
            except psutil.Error:
                found = None  # it ended between the two questions
            self._memory = (now, found)
        return found

    def _still_rivals(self, record: Record) -> list[dict[str, str]]:
        """Older jobs of the same name that still run: who ran a cell again may not know of them."""
        if record.status.terminal:
            return []
        if self._rivals is None:
            self._rivals = recently_written(self.store, self._clock())
        found = []
        for job_id in self._rivals:
            try:
                other = self.store.observe(job_id)
            except TrainkitError:
                continue  # deleted or damaged, or not a job's record: it does not run
            older = (other.created_at, other.job_id) < (record.created_at, record.job_id)
            if older and other.name == record.name and not other.status.terminal:
                found.append({"job_id": other.job_id, "status": str(other.status)})
        self._rivals = [rival["job_id"] for rival in found]
        return found

    def _silent_s(self, record: Record) -> int | None:
        """For how long a job that cannot be asked has given no sign of life, if that is long."""
        now = self._ticks()
        if record.heartbeat_at != self._heard[0]:
            self._heard = (record.heartbeat_at, now)
        silent = now - self._heard[1]
        if record.status.terminal or record.status is Status.QUEUED or silent < SILENCE_S:
            return None
        return int(silent) if self.store.is_owned(record) is None else None


def _charts(names: Iterable[str]) -> dict[str, Any]:
    """Return which metrics are on which chart, and of each line what is not plain: its label, and its rows."""
    found = charts(names)
    lines = {line.name: (line.label, line.split) for chart in found for line in chart.lines}
    return {
        "groups": [(chart.title, [line.name for line in chart.lines]) for chart in found],
        "lines": {name: line for name, line in lines.items() if line != ("", TRAINING)},
    }


def ranks(record: Record) -> list[dict[str, Any]]:
    """Return the processes that train a job together; none for a job of one."""
    if len(record.ranks) < 2:
        return []
    return [
        {
            "rank": each.rank,
            "node": each.node,
            "device": each.device,
            "steps_per_s": each.steps_per_s,
            "loading_share": each.loading_share,
        }
        for each in sorted(record.ranks, key=lambda each: each.rank)
    ]


def recently_written(store: Store, now: float) -> list[str]:
    """Return the jobs whose record is fresh: who runs a job writes it every second."""
    found = []
    with os.scandir(jobs_folder(store.root)) as entries:
        for entry in entries:
            if entry.name.endswith(".json") and not entry.name.startswith("."):
                try:
                    fresh = now - entry.stat().st_mtime < _FRESH_S
                except FileNotFoundError:
                    continue  # deleted while we were looking
                if fresh:
                    found.append(entry.name[: -len(".json")])
    return found


def _packed(name: str, x: Floats, y: Floats, count: int, buffers: list[bytes]) -> dict[str, Any]:
    last = float(y[-1]) if len(y) else 0.0
    x, y = thinned(x, y, count)
    at = len(buffers)
    buffers += [x.astype("<f8").tobytes(), y.astype("<f4").tobytes()]
    return {"name": name, "at": at, "count": len(x), "last": view.number(last) if np.isfinite(last) else str(last)}


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
