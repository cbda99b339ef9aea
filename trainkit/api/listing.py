"""All jobs under a root, and one of them by its id: from any process, any kernel, at any time."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path

from trainkit.api.job import Job
from trainkit.api.view import row, table
from trainkit.errors import OptionError, StateError, TrainkitError, UnknownJobError, did_you_mean
from trainkit.files.record import Record, Status
from trainkit.files.store import ENGINES, Store


class JobList(list[Job]):
    """Jobs, newest first, which shows itself as a table.

    Attributes:
        unreadable: the ids whose records are damaged, each with the reason.
    """

    def __init__(self, jobs: Iterable[Job], unreadable: dict[str, str] | None = None) -> None:
        super().__init__(jobs)
        self.unreadable = unreadable or {}

    def __repr__(self) -> str:
        return self.table()

    def table(self, *, ids: bool = False) -> str:
        """Return the jobs as aligned text.

        Args:
            ids: also show the ids; they differ between two equal runs.
        """
        rows, unreadable = [], dict(self.unreadable)
        for job in self:
            try:
                record = job.record
            except UnknownJobError:
                continue  # deleted since
            except TrainkitError as error:
                unreadable[job.id] = str(error)
                continue
            rows.append([*([job.id] if ids else []), *row(record).values()])
        for job_id, reason in unreadable.items():
            rows.append([*([job_id] if ids else []), job_id, "UNREADABLE", "", reason, "", ""])
        header = [*(["id"] if ids else []), "name", "state", "done", "at", "best", "runner"]
        return table(rows, header) if rows else "no jobs"


def jobs(state: Status | str | None = None, *, root: Store | str | Path | None = None) -> JobList:
    """Return the jobs under a root, newest first.

    Args:
        state: only those in this state.
        root: the root folder; without it ``TRAINKIT_ROOT`` or the current folder.

    Raises:
        StateError: no such state.

    >>> import tempfile
    >>> jobs(root=tempfile.mkdtemp())
    no jobs
    """
    store = Store.at(root)
    wanted = None if state is None else as_status(state)
    unreadable: dict[str, str] = {}
    found = [
        (record.created_at, Job.of(record, store))
        for record in store.observe_all(unreadable)
        if wanted in (None, record.status)
    ]
    found.sort(key=lambda pair: pair[0], reverse=True)
    return JobList((job for _, job in found), unreadable if wanted is None else {})


def records_of(store: Store, state: Status | None = None) -> tuple[list[Record], dict[str, str]]:
    """Return the records of :func:`jobs`, newest first, and the ids of those that are damaged, with the reason."""
    unreadable: dict[str, str] = {}
    records = [record for record in store.observe_all(unreadable) if state in (None, record.status)]
    records.sort(key=lambda record: record.created_at, reverse=True)
    return records, unreadable if state is None else {}


def attach(
    job_id: str | None = None, *, root: Store | str | Path | None = None, address: str | None = None
) -> Job:
    """Return a job by its id or name; the newest one without any.

    Args:
        job_id: the id or the name.
        root: the root folder; without it ``TRAINKIT_ROOT`` or the current folder.
        address: of the dashboard of the Ray cluster where the job is.  An address in the job's files is contacted
            only if this user has submitted the job, or has set ``RAY_API_SERVER_ADDRESS`` to it: anybody who can
            write to the folder could name any.  The one that is given here counts until this process ends.

    Raises:
        JobIdError: not a job id.
        UnknownJobError: no such job.
        RecordError: its record is damaged.
        OptionError: the address is not one of a dashboard, or the job is not on a cluster.
    """
    job = _found(job_id, Store.at(root))
    if address is not None:
        if (engine := ENGINES.get(job.store.read(job.id).runner or "")) is None:
            raise OptionError(f"address={address!r}: job {job.name!r} does not run on a Ray cluster")
        importlib.import_module(engine).name_address(job.store, job.id, address)
    return job


def _found(job_id: str | None, store: Store) -> Job:
    if job_id is not None and (job_id in store.job_ids()):
        return Job(job_id, store)
    known = jobs(root=store)
    if job_id is None:
        if not known:
            raise UnknownJobError(f"there is no job under {store.root}")
        return known[0]
    for job in known:
        if job.name == job_id:
            return job
    store.paths(job_id)  # refuses what could not be an id at all
    names = [*known.unreadable, *(job.id for job in known), *(job.name for job in known)]
    raise UnknownJobError(f"no job {job_id!r} under {store.root}{did_you_mean(job_id, names)}")


def as_status(state: Status | str) -> Status:
    """Return a state by its name, in any case.

    Raises:
        StateError: there is none of that name.

    >>> as_status("running")
    RUNNING
    """
    try:
        return Status(str(state).upper())
    except ValueError:
        raise StateError(f"{state!r} is not a state; states: {', '.join(Status)}") from None
