"""What came of a job: what its function returned or raised, as far as that is known in this process."""

from __future__ import annotations

from typing import Any

from trainkit.errors import (
    JobFailedError,
    JobInterruptedError,
    JobStoppedError,
    StateError,
    StoreError,
    TrustError,
)
from trainkit.files.record import Record, Status
from trainkit.files.store import Store
from trainkit.runners.outcomes import forget, outcome_of
from trainkit.runners.task import load_outcome


def error_of(store: Store, record: Record, *, trust: bool = False) -> BaseException | None:
    """Return what is to be raised for a job that has ended; None for one that has a result.

    Args:
        store: where its files are.
        record: the job's.
        trust: load also an exception that somebody else has pickled; else the record's text takes its place.
    """
    told = record.error.message if record.error else record.message
    if record.status is Status.FAILED:
        try:
            error = _outcome(store, record, trust=trust)[1]
        except (StoreError, TrustError):
            error = None  # the record has its type, message and traceback
        if not isinstance(error, Exception):  # not known here, or it would end whoever asks: SystemExit, say
            info = record.error
            error = JobFailedError(f"{info.type}: {info.message}\n\n{info.traceback}" if info else record.message)
        elif error.__cause__ is None and record.error is not None and error.__traceback__ is None:
            # A pickled exception has lost its traceback; its text takes the place.
            error.__cause__ = JobFailedError(f"in job {record.name!r}:\n\n{record.error.traceback}")
        return error
    if record.status is Status.INTERRUPTED:
        return JobInterruptedError(f"job {record.name!r} was interrupted" + (f": {told}" if told else ""))
    if record.status is Status.STOPPED and not _has_returned(store, record, trust=trust):
        return JobStoppedError(
            f"job {record.name!r} was stopped before it returned; job.model() is what it had, if it tracked one"
        )
    return None


def returned_by(store: Store, record: Record, *, trust: bool = False) -> Any:
    """Return what the function of a job returned.

    Args:
        store: where its files are.
        record: the job's.
        trust: load also what somebody else has pickled, which can run any code.

    Raises:
        StateError: that is not known here.
        StoreError: the file that has it is damaged, or cannot be read.
        TrustError: somebody else has written that file.
    """
    value, _, known = _outcome(store, record, trust=trust)
    if not known:
        file = store.paths(record.job_id).model
        raise StateError(
            f"job {record.name!r} is {record.status}, but what it returned is not here: it cannot be pickled, or "
            "is large, so it was only in the memory of the process that ran it. A thread job keeps such a result "
            f"as long as its Job object exists there; job.model() reads {file.name}, if it left a model"
        )
    return value


def delete(store: Store, job_id: str) -> None:
    """Remove all files of a job, and free what this process still has of it.

    Raises:
        StateError, StoreError: as :meth:`~trainkit.files.store.Store.delete` does.
    """
    store.delete(job_id)
    forget(store, job_id)


def _has_returned(store: Store, record: Record, *, trust: bool) -> bool:
    """Whether the function of a stopped job has returned; a result that cannot be loaded here counts."""
    try:
        return _outcome(store, record, trust=trust)[2]
    except (StoreError, TrustError):
        return True


def _outcome(store: Store, record: Record, *, trust: bool) -> tuple[Any, BaseException | None, bool]:
    """What the function returned, what it raised, and whether it returned, as far as that is known here."""
    outcome = outcome_of(store, record)
    if outcome is not None:
        outcome.settled.wait()
        return outcome.value, outcome.error, outcome.returned
    paths = store.paths(record.job_id)
    if paths.result.exists():
        return load_outcome(paths, trust=trust)
    return None, None, False
