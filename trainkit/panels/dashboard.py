"""The dashboard: all jobs under a root, live; their curves over each other; one of them whole."""

from __future__ import annotations

import time
from typing import Any

import traitlets

from trainkit.api import view
from trainkit.api.charts import groups
from trainkit.api.job import Job
from trainkit.api.listing import records_of
from trainkit.api.results import delete
from trainkit.errors import TrainkitError
from trainkit.files.store import Store
from trainkit.panels.catalogue import Catalogue
from trainkit.panels.feed import JobFeed, Message
from trainkit.panels.monitor import answer, ask
from trainkit.panels.panel import Panel, opening, told
from trainkit.panels.series import History, thinned

#: As many as colours and dashes can tell apart.
MOST_CURVES = 8
_CURVE_POINTS = 600
_PERIOD_S = 1.0
#: A folder of ten thousand jobs is looked at less often: at most this share of the time.
_SHARE = 0.1


class Dashboard(Panel):
    """The panel of all jobs.

    Args:
        store: whose jobs.
    """

    kind = traitlets.Unicode("dashboard", read_only=True).tag(sync=True)

    def __init__(self, store: Store) -> None:
        self.catalogue = Catalogue(store)
        self._scan_at = 0.0
        self._seq = 0
        self._all = True
        self._curves: dict[str, History] = {}
        self._metric = ""
        self._curves_changed = False
        self._open: tuple[Job, JobFeed] | None = None
        super().__init__(store)

    def everything(self) -> Message:
        """Return all rows."""
        self._seq += 1
        rows = list(self.catalogue.rows.values())
        return {
            "type": "jobs",
            "all": True,
            "seq": self._seq,
            "rows": rows,
            "gone": [],
            "root": str(self.store.root),
            "known": self._scan_at > 0,
        }, []

    def news(self) -> list[Message]:
        """Return what changed: rows, curves, the job that is open."""
        found: list[Message] = []
        now = time.monotonic()
        if now >= self._scan_at or self._all:
            first = self._scan_at == 0.0
            changed, gone = self.catalogue.scan()
            self._scan_at = time.monotonic() + max(_PERIOD_S, self.catalogue.took_s / _SHARE)
            if self._all or first:
                self._all = False
                found.append(self.everything())
                self.opening = opening(found[0])
            elif changed or gone:
                self._seq += 1
                content = {"type": "jobs", "all": False, "seq": self._seq, "rows": changed, "gone": gone}
                found.append((content, []))
            found += self._curve_news()
        elif self._curves_changed:
            found += self._curve_news()
        if self._open is not None:
            found += self._open_news(*self._open)
        return found

    def heard(self, message: dict[str, Any]) -> Message | None:
        """Do what the page asks for."""
        kind = message.get("type")
        if kind == "hello":
            self._all = True
            self._curves_changed = True
        elif kind == "curves":
            jobs, metric = message.get("jobs"), message.get("metric")
            self._choose(
                [each for each in jobs if isinstance(each, str)] if isinstance(jobs, list) else [],
                metric if isinstance(metric, str) else "",
            )
        elif kind == "open":
            return self._open_job(str(message.get("job_id")))
        elif kind == "shut":
            self._open = None
        elif kind == "job" and self._open is not None and isinstance(message.get("message"), dict):
            job, feed = self._open
            reply = answer(self, feed, job, message["message"])
            return None if reply is None else _wrapped(job.id, reply)
        elif kind == "ask" and message.get("action") == "delete":
            job_id = str(message.get("job_id"))
            self.in_background(lambda: delete(self.store, job_id), about="delete")
        elif kind == "ask":
            ask(self, Job(str(message.get("job_id")), self.store), message)
        return None

    def text(self) -> str:
        """Return the jobs that have ended as a table, and how many have not."""
        return listing_text(self.store)

    # --- details ---------------------------------------------------------------------------------

    def _choose(self, job_ids: list[str], metric: str) -> None:
        known = [job_id for job_id in job_ids if job_id in self.catalogue.rows][:MOST_CURVES]
        self._curves = {
            job_id: self._curves.get(job_id) or History(self.store.paths(job_id).metrics) for job_id in known
        }
        self._metric = metric
        self._curves_changed = True

    def _curve_news(self) -> list[Message]:
        grown = [history.read() for history in self._curves.values()]
        if not (any(grown) or self._curves_changed):
            return []
        self._curves_changed = False
        names = list(dict.fromkeys(name for history in self._curves.values() for name in history.metrics))
        metric = self._metric if self._metric in names else (names[0] if names else "")
        buffers: list[bytes] = []
        series = []
        for job_id, history in self._curves.items():
            if (points := history.metrics.get(metric)) is None:
                continue
            x, y = thinned(points.x, points.y, _CURVE_POINTS)
            series.append({"name": job_id, "at": len(buffers), "count": len(x)})
            buffers += [x.astype("<f8").tobytes(), y.astype("<f4").tobytes()]
        ordered = [name for names in groups(names).values() for name in names]
        return [({"type": "curves", "metric": metric, "metrics": ordered, "series": series}, buffers)]

    def _open_job(self, job_id: str) -> Message | None:
        self._open = None
        try:
            self._open = (Job(job_id, self.store), JobFeed(self.store, job_id))
        except TrainkitError as error:
            return _trouble(job_id, error)
        return None

    def _open_news(self, job: Job, feed: JobFeed) -> list[Message]:
        try:
            message = feed.next()
        except TrainkitError as error:  # of this one job: the others stay
            self._open = None
            return [_trouble(job.id, error)]
        return [] if message is None else [_wrapped(job.id, message)]


def _trouble(job_id: str, error: TrainkitError) -> Message:
    """Return what went wrong with the open job, for the page of that job: the list is hidden by it."""
    return _wrapped(job_id, ({"type": "trouble", "message": told(error)}, []))


def _wrapped(job_id: str, message: Message) -> Message:
    content, buffers = message
    return {"type": "job", "job_id": job_id, "message": content}, buffers


def listing_text(store: Store) -> str:
    """Return the jobs under a root as stable text: those that have ended as a table, the others as a number."""
    ended, live = [], 0
    for record in records_of(store)[0]:  # jobs() tells which are damaged
        if record.status.terminal:
            ended.append(record)
        else:
            live += 1
    lines = []
    if ended:
        header = ["name", "state", "at", "metrics"]
        rows = []
        for record in ended:
            numbers = "  ".join(f"{name} {value}" for name, value in view.numbers(record.metrics))
            rows.append([record.name, str(record.status), view.headline(record), numbers])
        lines.append(view.table(rows, header))
    if live:
        lines.append(f"{live} job{'s' if live > 1 else ''} in the background")
    return "\n".join(lines) or "no jobs"
