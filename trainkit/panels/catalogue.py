"""All jobs under a root as rows of a table, kept current by reading only the records that may have changed."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from typing import Any

from trainkit.api import view
from trainkit.api.charts import paired
from trainkit.errors import JobIdError, TrainkitError, UnknownJobError
from trainkit.files.paths import jobs_folder
from trainkit.files.record import Record, Status
from trainkit.files.store import Store
from trainkit.panels.folder import Folder

#: What a row holds, in this order; the page gets the list, so that ten thousand rows stay small.
COLUMNS = ("job_id", "name", "status", "progress", "where", "metrics", "created_at", "runner", "actions", "parent")
Row = list[Any]
#: Time, number and size of a file.
Stamp = tuple[int, int, int]
#: So many jobs that are over are asked at every look whether their records are the same files still.
IN_TURN = 100
_NOTHING: Stamp = (0, 0, 0)


class Catalogue:
    """The rows of all jobs.

    A record is replaced whenever it is written, so its name leads to another file then, which :class:`Folder`
    notices without asking for each.  Some of the jobs that are over are asked besides at every look, each in its
    turn, in case a file was changed in place.  Those that live are read every time: the state of a job that
    vanished changes without any file changing.

    Args:
        store: whose jobs.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.rows: dict[str, Row] = {}
        self._path = str(jobs_folder(store.root))
        self._folder = Folder(self._path)
        self._stamps: dict[str, Stamp] = {}
        self._turn: Iterator[str] = iter(())
        self._live: set[str] = set()
        self.took_s = 0.0

    def scan(self) -> tuple[list[Row], list[str]]:
        """Look at the folder again.

        Returns:
            The rows that are new or changed, and the ids that are gone.
        """
        began = time.perf_counter()
        due = dict.fromkeys([*self._live, *(_job_id(name) for name in self._folder.look() if _is_record(name))])
        due |= dict.fromkeys(
            job_id for job_id in self._next_in_turn() if self._stamps.get(job_id) != self._stamp(job_id)
        )
        changed, gone = [], []
        for job_id in due:
            row = self._row(job_id)
            if row is None:
                self._live.discard(job_id)
                self._stamps.pop(job_id, None)
                if self.rows.pop(job_id, None) is not None:
                    gone.append(job_id)
            elif self.rows.get(job_id) != row:
                self.rows[job_id] = row
                changed.append(row)
        self.took_s = time.perf_counter() - began
        return changed, gone

    def _next_in_turn(self) -> list[str]:
        turn = list(itertools.islice(self._turn, IN_TURN))
        if len(turn) < IN_TURN:
            self._turn = iter(list(self._stamps))
        return turn

    def _stamp(self, job_id: str) -> Stamp:
        try:
            found = os.stat(self._path_of(job_id))
        except FileNotFoundError:
            return _NOTHING
        return (found.st_mtime_ns, found.st_ino, found.st_size)

    def _path_of(self, job_id: str) -> str:
        return f"{self._path}{os.sep}{job_id}.json"

    def _row(self, job_id: str) -> Row | None:
        # Before it is read: what is written meanwhile is seen at the next look.
        self._stamps[job_id] = stamp = self._stamp(job_id)
        if stamp == _NOTHING and not os.path.islink(self._path_of(job_id)):
            return None  # the store would look for names that are like it
        try:
            record = self.store.observe(job_id)
        except UnknownJobError:
            return None
        except (TrainkitError, ValueError) as error:
            self._live.discard(job_id)
            created_at = stamp[0] / 1e9
            # A name that is not a job id is the file of another program, which is not deleted from here.
            actions = "" if isinstance(error, JobIdError) else "delete"
            reason = str(error).removeprefix(f"{self._path_of(job_id)}: ")  # of the row there is room for little
            return [job_id, job_id, "UNREADABLE", 0.0, reason, "", created_at, "", actions, None]
        if record.status.terminal:
            self._live.discard(job_id)
        else:
            self._live.add(job_id)
        return as_row(record)


def _is_record(name: str) -> bool:
    return name.endswith(".json") and not name.startswith(".")


def _job_id(name: str) -> str:
    return name[: -len(".json")]


def as_row(record: Record) -> Row:
    """Return a record as a row.

    >>> as_row(Record(job_id="a", name="fit", status=Status.STOPPED, step=5, metrics={"loss": 0.25}, runner="ray"))
    ['a', 'fit', 'STOPPED', 0.0, 'step 5', 'loss 0.25', 0.0, 'ray', 'delete', None]
    """
    failed = record.status is Status.FAILED and record.message
    numbers = list(paired(record.metrics))[:4]
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
