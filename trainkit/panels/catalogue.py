"""All jobs under a root as rows of a table, kept current by reading only the records that changed."""

from __future__ import annotations

import os
import time
from typing import Any

from trainkit import view
from trainkit.errors import RecordError, UnknownJobError
from trainkit.paths import jobs_folder
from trainkit.record import Record, Status
from trainkit.store import Store

#: What a row holds, in this order; the page gets the list, so that ten thousand rows stay small.
COLUMNS = ("job_id", "name", "status", "progress", "where", "metrics", "created_at", "runner", "actions", "parent")
Row = list[Any]


class Catalogue:
    """The rows of all jobs.

    Args:
        store: whose jobs.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.rows: dict[str, Row] = {}
        self._seen: dict[str, tuple[int, int, int]] = {}
        self._live: set[str] = set()
        self.took_s = 0.0

    def scan(self) -> tuple[list[Row], list[str]]:
        """Look at the folder again.

        Returns:
            The rows that are new or changed, and the ids that are gone.
        """
        began = time.perf_counter()
        seen: dict[str, tuple[int, int, int]] = {}
        try:
            with os.scandir(jobs_folder(self.store.root)) as entries:
                for entry in entries:
                    name = entry.name
                    if name.endswith(".json") and not name.startswith("."):
                        try:
                            stat = entry.stat()
                        except FileNotFoundError:
                            continue  # deleted while we were looking
                        seen[name[:-5]] = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        except FileNotFoundError:
            pass
        gone = [job_id for job_id in self.rows if job_id not in seen]
        for job_id in gone:
            del self.rows[job_id]
            self._live.discard(job_id)
        # The state of a job that vanished changes without any file changing: those that live are asked each time.
        due = [job_id for job_id, stamp in seen.items() if self._seen.get(job_id) != stamp or job_id in self._live]
        self._seen = seen
        changed = []
        for job_id in due:
            row = self._row(job_id)
            if row is not None and self.rows.get(job_id) != row:
                self.rows[job_id] = row
                changed.append(row)
        self.took_s = time.perf_counter() - began
        return changed, gone

    def _row(self, job_id: str) -> Row | None:
        try:
            record = self.store.observe(job_id)
        except UnknownJobError:
            return None
        except (RecordError, ValueError) as error:
            self._live.discard(job_id)
            created_at = self._seen[job_id][0] / 1e9
            return [job_id, job_id, "UNREADABLE", 0.0, str(error), "", created_at, "", "delete", None]
        if record.status.terminal:
            self._live.discard(job_id)
        else:
            self._live.add(job_id)
        return as_row(record)


def as_row(record: Record) -> Row:
    """Return a record as a row.

    >>> as_row(Record(job_id="a", name="fit", status=Status.STOPPED, step=5, metrics={"loss": 0.25}, runner="ray"))
    ['a', 'fit', 'STOPPED', 0.0, 'step 5', 'loss 0.25', 0.0, 'ray', 'delete', None]
    """
    failed = record.status is Status.FAILED and record.message
    numbers = list(view.paired(record.metrics))[:4]
    asked = [action.name for action in view.actions(record)]
    if record.status.terminal:
        asked.append("delete")
    return [
        record.job_id,
        record.name,
        str(record.status),
        round(record.progress, 1),
        record.message[:120] if failed else view.headline(record).split(" · ")[0],
        " · ".join(f"{name} {view.number(value)}" for name, value in numbers),
        round(record.created_at, 1),
        record.runner or "",
        " ".join(asked),
        None if record.parent is None else [record.parent.job_id, record.parent.step],
    ]
