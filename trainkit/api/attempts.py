"""Handing an attempt of a job to a runner: the first one, or a resumed one."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable

import msgspec

from trainkit.errors import CheckpointError, StateError, TrainkitError, telling
from trainkit.files.interrupts import uninterrupted
from trainkit.files.locks import FileLock, try_lock
from trainkit.files.paths import JobPaths
from trainkit.files.record import Record, Resources, Status, begin_attempt
from trainkit.files.store import Handle, Store
from trainkit.resuming.checkpoints import whole_resume
from trainkit.resuming.randomness import settle
from trainkit.runners import runner as find_runner
from trainkit.runners.placement import check_resources
from trainkit.runners.slots import Ticket, job_limit
from trainkit.runners.task import Task, adopt_task, checked_task

#: How long the owner of a job that is over may take to exit.
EXIT_S = 10.0


def begin(store: Store, record: Record, task: Task, *, then: Callable[[], None] = lambda: None) -> None:
    """Make the files of a new job and hand it to its runner; on any failure nothing is left behind.

    Args:
        store: where the files go.
        record: QUEUED, with the name of a runner.
        task: what to run.
        then: called when the job was started.
    """
    _begin(store, record, task, lambda paths: None, then)


def begin_from_files(store: Store, record: Record, fill: Callable[[JobPaths], None]) -> None:
    """As :func:`begin`, for a job whose task is in its files already.

    Args:
        store: where the files go.
        record: QUEUED, with the name of a runner.
        fill: puts the task, and what else the job needs, into its folder; it may complete the record.
    """
    _begin(store, record, None, fill)


def _begin(
    store: Store,
    record: Record,
    task: Task | None,
    fill: Callable[[JobPaths], None],
    then: Callable[[], None] = lambda: None,
) -> None:
    find_runner(str(record.runner)).check(record)
    job_limit()  # a wrong setting is an error here, not in a job that waits
    settle(record)

    def make() -> None:
        lock = store.create(record)
        try:
            fill(store.paths(record.job_id))
            _hand_over(store, record, task, lock, Handle(runner=str(record.runner)))
        except BaseException:
            store.discard(record.job_id)
            lock.close()
            raise
        then()

    uninterrupted(make)


def resume(
    store: Store,
    job_id: str,
    *,
    runner: str | None = None,
    ranks: int | None = None,
    address: str | None = None,
    trust: bool = False,
) -> Status:
    """Start a new attempt of a job that is over, from its newest whole checkpoint.

    Args:
        store: where its files are.
        job_id: the job.
        runner: another runner than it had.
        ranks: another number of ranks than it had.
        address: of another cluster than it had.
        trust: run the function that is in its files even if no job of this user has written it.

    Returns:
        The state of the new attempt.

    Raises:
        OptionError: the runner cannot do what is asked for.
        StateError: it is not over, it completed, or somebody else resumes it at this moment.
        CheckpointError: it has no checkpoint that is whole, or its function could not be kept.
        StoreError: its files cannot be written.
        TrustError: its function, or the address of its cluster, is not known to be of this user.
    """
    record = store.observe(job_id)
    where, resources = place_again(store, record, runner=runner, ranks=ranks, address=address)
    record.runner, record.resources = where, resources
    find_runner(where).check(record)
    paths = store.paths(job_id)
    if record.status is not Status.COMPLETED and not (record.resumable or paths.resume.exists()):
        raise CheckpointError(
            f"job {record.name!r} cannot be resumed: it has no checkpoint. One is saved automatically every few "
            "seconds once run.track(model=..., optimizer=...) names what to keep"
        )
    # The owner writes the terminal state first and exits then, which takes a process with torch a while.
    give_up_at = time.monotonic() + EXIT_S
    with telling(paths.folder):
        while (
            status := uninterrupted(lambda: _begin_again(store, record, where, resources, trust=trust))
        ) is None:
            if not store.observe(job_id).status.terminal or time.monotonic() > give_up_at:
                raise StateError(f"job {record.name!r} is run by somebody already; job.state tells how far it is")
            time.sleep(0.01)
    return status


def place_again(
    store: Store, record: Record, *, runner: str | None, ranks: int | None = None, address: str | None
) -> tuple[str, Resources]:
    """Return the runner and the resources of a job that is run again, or of one that is made from it.

    Args:
        store: where the files of the job are.
        record: the job's.
        runner: another runner than it had.
        ranks: another number of ranks than it had.
        address: of another cluster than it had.

    Raises:
        OptionError: the runner cannot do what is asked for.
        TrustError: the address in the job's files is not known to be one that this user named.
    """
    where = runner or record.runner or "process"
    there = address if address is not None else find_runner(where).address_again(store, record)
    changes = {"address": there} | ({"ranks": ranks} if ranks is not None else {})
    resources = msgspec.structs.replace(record.resources, **changes)
    check_resources(**msgspec.structs.asdict(resources))
    return where, resources


def _begin_again(store: Store, record: Record, where: str, resources: Resources, *, trust: bool) -> Status | None:
    """Start a new attempt and return its state; None if somebody still holds the owner's lock."""
    job_id, paths = record.job_id, store.paths(record.job_id)
    if (lock := try_lock(paths.owner_lock)) is None:
        return None
    try:
        lock.check_excludes()
        # Only under the lock is it certain that nobody else has resumed it since.
        record = store.observe_as_owner(job_id)
        before = copy.copy(record)
        begin_attempt(record, now=time.time())
        record.runner, record.resources = where, resources
        whole_resume(paths)  # the worker loads it; that there is none should be told here
        if not paths.task.exists():
            raise CheckpointError(
                f"job {record.name!r} cannot be resumed: its function uses things that exist only in the "
                "notebook that ran it. Run the cell that started it again"
            )
        task = checked_task(paths, trust=trust)
        if trust:
            adopt_task(task, paths)
        del task
        store.sweep(job_id)
        paths.result.unlink(missing_ok=True)  # what an earlier attempt returned is not what this one will
        # The handle first: with the old one, observers would look for processes that are gone.
        handle = Handle(runner=where, requests_offset=paths.requests.stat().st_size)
        store.write_handle(job_id, handle)
        try:
            store.write_record(record, durable=True)
            _hand_over(store, record, None, lock, handle)
        except BaseException:
            # An attempt that never began leaves no trace: the job is as it was.
            store.write_record(before, durable=True)
            raise
    except BaseException:
        lock.close()
        raise
    # The attempt has begun: a disk that fails when its state is read does not make the resume fail.
    with contextlib.suppress(TrainkitError):
        return store.observe(job_id).status
    return Status.QUEUED


def _hand_over(store: Store, record: Record, task: Task | None, lock: FileLock, handle: Handle) -> None:
    ticket = Ticket(record.job_id)
    try:
        find_runner(handle.runner).submit(store, record, task, lock, ticket, handle)
    except BaseException:
        ticket.close()
        raise
