"""An index of the jobs under a root, kept between requests: ten thousand records are not read for each page."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

from trainkit.errors import TrainkitError, UnknownJobError
from trainkit.files.record import Status
from trainkit.files.store import Store
from trainkit.server.problems import RefusedError
from trainkit.server.roots import Roots

#: Of how many roots the index is kept.
_KEPT_ROOTS = 16


class Entry(NamedTuple):
    """What is needed to sort and to choose: which file it was read from, then what was in it."""

    file: tuple[int, int, int]
    created_at: float
    job_id: str
    status: Status


class Index:
    """Knows the jobs under each root; asks the files for all that may have changed."""

    def __init__(self) -> None:
        self._known: OrderedDict[Path, dict[str, Entry]] = OrderedDict()

    def of(self, roots: Roots, store: Store, unreadable: dict[str, str]) -> list[Entry]:
        """Return the jobs under a root, newest first.

        Args:
            roots: what may be reached.
            store: whose jobs.
            unreadable: gets the ids of those that cannot be read, with the reason.
        """
        known = self._known.get(store.root, {})
        entries: dict[str, Entry] = {}
        for job_id in store.job_ids():
            try:
                entries[job_id] = self._entry(roots, store, job_id, known.get(job_id))
            except (FileNotFoundError, UnknownJobError):
                continue  # deleted while we were looking
            except (TrainkitError, RefusedError, ValueError) as error:
                unreadable[job_id] = str(error)
        self._known[store.root] = entries
        while len(self._known) > _KEPT_ROOTS:
            self._known.popitem(last=False)
        return sorted(entries.values(), key=lambda entry: (entry.created_at, entry.job_id), reverse=True)

    def _entry(self, roots: Roots, store: Store, job_id: str, known: Entry | None) -> Entry:
        found = os.lstat(store.paths(job_id).record)
        file = (found.st_mtime_ns, found.st_size, found.st_ino)
        # Only a job that is over stays what it is until its record is replaced; the others can vanish.
        if known is not None and known.file == file and known.status.terminal:
            return known
        record = store.read(job_id)
        if not record.status.terminal:
            roots.check_files(store, job_id)  # whether somebody runs it is asked of its other files
            record = store.observe(job_id)
        return Entry(file, record.created_at, job_id, record.status)
