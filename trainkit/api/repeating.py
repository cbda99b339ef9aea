"""New jobs from old ones: one that repeats another, change by change; one that branches off from it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec

from trainkit.api.attempts import begin_from_files, place_again
from trainkit.errors import CheckpointError, OptionError, StateError, did_you_mean
from trainkit.files.masking import has_mask, unmasked
from trainkit.files.paths import JobPaths, check_job_id, new_job_id
from trainkit.files.plain import to_jsonable
from trainkit.files.record import CheckpointInfo, Parent, Record, Status
from trainkit.files.store import Store
from trainkit.resuming.checkpoints import adopt, sync_for_resume
from trainkit.resuming.kept import BASE, Kept, file_of, find, kept
from trainkit.resuming.steering import Change, Plan, history_of, load_plan, save_plan
from trainkit.runners.task import adopt_task, checked_task
from trainkit.training.params import FOLLOWED, check_followed


def check_params(record: Record, changes: Mapping[str, Any]) -> None:
    """Check new values for parameters of a job.

    Raises:
        OptionError: the job has no parameter of that name, or the value would end the training.
    """
    known = {*record.params, *FOLLOWED}
    for each in changes:
        if each not in known:
            raise OptionError(
                f"job {record.name!r} has no parameter {each!r}{did_you_mean(each, known)}; "
                f"parameters: {', '.join(sorted(known))}"
            )
    check_followed(changes)


def replay(
    store: Store,
    job_id: str,
    *,
    runner: str | None = None,
    name: str | None = None,
    new_id: str | None = None,
    address: str | None = None,
    trust: bool = False,
) -> str:
    """Start a job that does what another one did: the same function, and each change and ending at its place.

    Args:
        store: where the files are.
        job_id: the job to repeat.
        runner: another runner than it had.
        name: what people call the new job.
        new_id: its id.
        address: of another cluster than it had.
        trust: run the function that is in its files even if no job of this user has written it.

    Returns:
        The id of the new job.

    Raises:
        StateError: the job is not over.
        CheckpointError: its function could not be kept, or it is a branch whose base is damaged.
        TrustError: its function, or the address of its cluster, is not known to be of this user.
    """
    old = store.observe(job_id)
    if not old.status.terminal:
        raise StateError(
            f"job {old.name!r} is {old.status}; it can be repeated when it is over: job.stop() ends it"
        )
    paths = store.paths(job_id)
    plan = load_plan(paths.plan)
    history = history_of(paths.events, plan)
    params = history.params if history.params is not None else old.params
    base = next((info for info in kept(paths) if info.reason == BASE), None)
    if base is not None:
        base = find(paths, base.step)
    return _begin(
        store,
        old,
        Plan(plan.arguments, history.made, history.ending, plan.not_followed + history.not_followed),
        verb="replay",
        base=base,
        params=params,
        runner=runner,
        name=name or f"{old.name} again",
        new_id=new_id,
        address=address,
        trust=trust,
    )


def branch(
    store: Store,
    job_id: str,
    changes: Mapping[str, Any],
    *,
    step: int | None = None,
    runner: str | None = None,
    name: str | None = None,
    new_id: str | None = None,
    address: str | None = None,
    trust: bool = False,
) -> str:
    """Start a job that goes on from a kept checkpoint of another one, with other parameters.

    Args:
        store: where the files are.
        job_id: the job to branch off from; it may be running.
        changes: parameters with their new values: live ones from the first step on, and as arguments of the
            function.
        step: after which step; without it the newest checkpoint.
        runner: another runner than it had.
        name: what people call the new job.
        new_id: its id.
        address: of another cluster than it had.
        trust: run the function that is in its files even if no job of this user has written it.

    Returns:
        The id of the new job.

    Raises:
        OptionError: the job has no parameter of that name.
        CheckpointError: there is no checkpoint of that step, it is damaged, or the function could not be kept.
        TrustError: its function, or the address of its cluster, is not known to be of this user.
    """
    old = store.observe(job_id)
    check_params(old, changes)
    paths = store.paths(job_id)
    base = find(paths, step)
    earlier = load_plan(paths.plan).arguments
    # What the record shows in the place of a secret is the secret itself; the worker knows those of the task.
    arguments = {
        key: unmasked(value, earlier.get(key, value)) for key, value in changes.items() if key in old.params
    }
    # Due as soon as the run is back at the place of the checkpoint: before that no step is done.  What is masked
    # reaches the run as an argument of the function.
    live = {name: value for name, value in to_jsonable(dict(changes)).items() if not has_mask(value)}
    changed = [Change((0, 0, 0, 0), live)] if live else []
    return _begin(
        store,
        old,
        Plan({**earlier, **arguments}, changed),
        verb="branch",
        base=base,
        params={**old.params, **to_jsonable(dict(changes))},
        runner=runner,
        name=name or f"{old.name} from step {base.step}",
        new_id=new_id,
        address=address,
        trust=trust,
    )


def _begin(
    store: Store,
    old: Record,
    plan: Plan,
    *,
    verb: str,
    base: CheckpointInfo | None,
    params: Mapping[str, Any],
    runner: str | None,
    name: str,
    new_id: str | None,
    address: str | None,
    trust: bool,
) -> str:
    where, resources = place_again(store, old, runner=runner, address=address)
    old_paths = store.paths(old.job_id)
    if not old_paths.task.exists():
        raise CheckpointError(
            f"job {old.name!r} cannot be run again by itself: its function uses things that exist only in the "
            "notebook that ran it. Run the cell that started it again"
        )
    task = checked_task(old_paths, trust=trust, verb=verb)
    now = time.time()
    record = Record(
        job_id=check_job_id(new_id) if new_id is not None else new_job_id(now),
        name=name,
        status=Status.QUEUED,
        params=dict(params),
        runner=where,
        device=old.device,
        resources=resources,
        randomness=old.randomness,
        parent=Parent(old.job_id, (base.step or 0) if base else 0),
        created_at=now,
        updated_at=now,
        heartbeat_at=now,
    )
    if base is not None:
        record.step, record.epoch, record.resumable = base.step or 0, base.epoch or 0, True

    def fill(paths: JobPaths) -> None:
        adopt_task(task, paths)
        save_plan(paths.plan, plan)
        if base is not None:
            record.checkpoint = adopt(paths, file_of(old_paths, base), msgspec.structs.replace(base, reason=BASE))
            Kept(paths).add(record.checkpoint)
            sync_for_resume(paths)  # it has a checkpoint from its beginning

    begin_from_files(store, record, fill)
    return record.job_id
