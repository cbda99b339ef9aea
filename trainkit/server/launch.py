"""Starting a job on a table.  It runs in a process of its own, which does not end with the server."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from trainkit.api import launching
from trainkit.api.job import Job
from trainkit.errors import JobExistsError, OptionError
from trainkit.files.store import Store
from trainkit.server.messages import Reply, TrainAnswer, TrainRequest
from trainkit.server.problems import RefusedError
from trainkit.server.site import Site
from trainkit.tabular.checking import Checked, check_file_apart
from trainkit.tabular.options import TrainOptions, check_options

#: How long to wait for the new process to write down its pid, before the answer goes out without.
_PID_S = 2.0
_OPTIONS = msgspec.structs.fields(TrainOptions)


def start(site: Site, request: TrainRequest) -> Reply:
    """Start a job, or find the one that the same idempotency key has started."""
    store = site.roots.store(request.root)
    data = table_below(site, store, request)
    job_id = once_id(request) if request.idempotency_key is not None else None
    options = {each.name: value for each in _OPTIONS if (value := getattr(request, each.name)) != each.default}
    job = started_before(store, job_id) if job_id is not None else None
    new = job is None
    if job is None:
        site.refuse_one_more()
        # Not while holding the lock: a table that takes long keeps nobody else waiting.
        with site.checking:
            checked = check_file_apart(data, options) if data is not None else None
        with site.launching:
            job = started_before(store, job_id) if job_id is not None else None
            new = job is None
            if job is None:
                job = _start(site, store, request, data, checked, options, job_id)
    record = job.record
    give_up_at = time.monotonic() + _PID_S
    while record.pid is None and not record.status.terminal and time.monotonic() < give_up_at:
        time.sleep(0.02)
        record = job.record
    answer = TrainAnswer(
        job_id=job.id,
        pid=record.pid,
        status=record.status,
        message=record.message or ("started" if new else "started before, under the same idempotency key"),
    )
    where = f"{site.base_url}api/train/status?job_id={job.id}"
    return Reply(answer, 201 if new else 200, {"Location": where})


def explain(fields: Mapping[str, Any]) -> None:
    """Say in the words of the options what is wrong with one of them.

    Raises:
        OptionError: there is something wrong with an option.
    """
    names = {option.name for option in _OPTIONS}
    check_options({name: value for name, value in fields.items() if name in names})


def table_below(site: Site, store: Store, request: TrainRequest) -> Path | None:
    """Return the path of the table, all links followed, or None for made-up rows.

    Raises:
        RefusedError: it is outside of the root, or no file.
        OptionError: two tables are named.
    """
    if request.data is not None and request.dataset is not None and request.data != request.dataset:
        raise OptionError("data and dataset are two words for the same; give one of them")
    given = request.data if request.data is not None else request.dataset
    if given is None:
        return None
    path = site.roots.below(given, store.root)
    try:
        is_file = path.is_file()
    except OSError:  # a name longer than the file system takes, say
        is_file = False
    if not is_file:
        raise RefusedError(422, f"data: there is no file {given!r:.200} below {store.root}", type="TableError")
    return path


def once_id(request: TrainRequest) -> str:
    """Return the id of the job that a key stands for: a hash of the key, then one of what is asked.

    The id is the memory: it needs no file of its own, outlives the server, and two jobs cannot have it.
    """
    asked = msgspec.structs.asdict(request)
    key = asked.pop("idempotency_key")
    what = msgspec.json.encode(sorted(asked.items()))
    return f"once_{hashlib.sha256(key.encode()).hexdigest()[:24]}_{hashlib.sha256(what).hexdigest()[:12]}"


def started_before(store: Store, job_id: str) -> Job | None:
    """Return the job of an id made by :func:`once_id`, if it was started.

    Raises:
        RefusedError: the same key has started a job that was asked for in other words.
    """
    of_key = job_id.rpartition("_")[0] + "_"
    for known in store.job_ids():
        if known == job_id:
            return Job(known, store)
        if known.startswith(of_key):
            raise RefusedError(
                409,
                f"this idempotency_key has started job {known!r} with other options; take a new key",
                type="IdempotencyError",
            )
    return None


def _start(
    site: Site,
    store: Store,
    request: TrainRequest,
    data: Path | None,
    checked: Checked | None,
    options: dict[str, Any],
    job_id: str | None,
) -> Job:
    site.refuse_one_more()
    how: dict[str, Any] = {"runner": "process", "name": request.name, "job_id": job_id, "root": store}
    try:
        if data is None or checked is None:
            return launching.train(None, max_time=request.max_time, **how, **options)
        table = launching.Prepared.of_file(data, options, checked)
        return launching.start_training(table, options, max_time=request.max_time, **how)
    except JobExistsError:
        if job_id is None:
            raise
        return Job(job_id, store)  # another server was asked the same at the same moment
