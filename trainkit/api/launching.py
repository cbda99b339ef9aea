"""Starting jobs: a function, or a table in one call."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from trainkit.api.arguments import bound, telling_params_apart
from trainkit.api.attempts import begin
from trainkit.api.job import Job
from trainkit.errors import OptionError
from trainkit.files.masking import MASK, is_mask_given
from trainkit.files.paths import check_job_id, new_job_id
from trainkit.files.plain import to_jsonable
from trainkit.files.record import Limits, Randomness, Record, Resources, Status
from trainkit.files.scalars import plain_value, whole_number
from trainkit.files.store import Store
from trainkit.files.units import seconds
from trainkit.resuming.randomness import OWN_GENERATORS, check_seed
from trainkit.runners import runner as find_runner
from trainkit.runners.placement import check_resources, suitable_runner
from trainkit.runners.task import Task, describe

if TYPE_CHECKING:
    from trainkit.tabular.checking import Checked


@telling_params_apart(for_function=("max_time", "patience", "on_done"), for_both=("seed",))
def submit(
    function: Callable[..., Any],
    params: Mapping[str, Any] | None = None,
    /,
    *,
    runner: str | None = None,
    ranks: int = 1,
    gpus_per_rank: int = 0,
    retries: int = 0,
    address: str | None = None,
    name: str | None = None,
    job_id: str | None = None,
    root: Store | str | Path | None = None,
    max_time: float | str | None = None,
    patience: int | None = None,
    on_done: Callable[[Job], object] | None = None,
    seed: int | None = None,
    **more: Any,
) -> Job:
    """Start ``function(run, **params)`` in the background and return at once.

    Args:
        function: any callable whose first argument takes the :class:`~trainkit.training.run.Run`.
        params: arguments of the function in a dict, for those that are named like an option of the job.  With
            it, even an empty one, keywords that are named like an option are options.
        runner: ``"thread"``, in this process and with its live objects; ``"process"``, which survives it; or
            ``"ray"``, on a cluster.  Without it the first of these that can do what is asked for.
        ranks: how many processes train together, each on its share of every step.
        gpus_per_rank: how many GPUs each of them needs.
        retries: how often they are started again from the last checkpoint when one of them, or its machine, is
            lost.  An exception of the function ends the job.
        address: of a Ray cluster's dashboard, ``"http://head:8265"`` say; or ``"local"`` for one of its own here.
        name: what people call the job; without it the function's name.
        job_id: the job's id, if you have one; it must not be taken.
        root: where the files go; without it ``TRAINKIT_ROOT`` or the current folder.
        max_time: for how long the job may run: seconds, or ``"30min"``, ``"2h"``.  Then it finishes after its step
            and completes with what it has.  Attempts add up; pauses and the queue do not count.
        patience: end after so many epochs without a better value of the metric that ``run.best`` names, or
            ``val_loss``.  The last value in an epoch counts; without ``run.epochs``, every value.
        on_done: called with the job, in a thread of its own in this process, when it has ended, however it did.
            Where this process is gone by then, nobody calls it.
        seed: gives the job random numbers of torch's that are its own, so that it comes out the same whatever
            other cells draw, and can be repeated.  In a thread that costs some microseconds per operation; a
            process has its own in any case.  A function with a parameter of that name gets it too.
        **more: the function's other arguments; they are in the record, and live in ``run.params``.  Without
            ``params``, ``max_time``, ``patience`` and ``on_done`` are the function's where it has a parameter of
            that name, not options of the job; any other option is then refused, because it is ambiguous.

    Raises:
        OptionError: no such runner, one that cannot do what is asked for, an option out of its range, or
            parameters that the function does not take.
        RunnerError: the cluster cannot be reached.
        MissingExtraError: the ``ray`` extra is not installed.
        JobIdError, JobExistsError: the id cannot be used.
        TaskError: with ``runner="process"``, something cannot be pickled; the message names it.

    >>> import tempfile
    >>> def fit(run, steps):
    ...     for step in range(steps):
    ...         run.log(loss=1.0 / (step + 1))
    >>> job = submit(fit, steps=3, root=tempfile.mkdtemp())
    >>> job.wait()
    COMPLETED
    """
    if not callable(function):
        raise OptionError(f"expected a function, got {type(function).__name__}: {function!r:.80}")
    resources = check_resources(ranks=ranks, gpus_per_rank=gpus_per_rank, retries=retries, address=address)
    arguments = bound(function, params or {})
    for name in [name for name, value in arguments.items() if is_mask_given(value)]:
        raise OptionError(
            f"{name!r} is, or holds, {MASK!r}, which records show in the place of a secret; pass the secret "
            "itself, or use job.replay() or job.branch(), which keep it"
        )
    return launch(
        Task(function, arguments),
        randomness=Randomness(check_seed(seed)),
        params=arguments,
        runner=runner or suitable_runner(resources),
        resources=resources,
        name=name or describe(function),
        job_id=job_id,
        root=root,
        max_time=max_time,
        patience=patience,
        on_done=on_done,
    )


def train(
    data: Any = None,
    *,
    target: str | int | None = None,
    runner: str | None = None,
    ranks: int = 1,
    gpus_per_rank: int = 0,
    retries: int = 0,
    address: str | None = None,
    name: str | None = None,
    job_id: str | None = None,
    root: Store | str | Path | None = None,
    max_time: float | str | None = None,
    on_done: Callable[[Job], object] | None = None,
    **options: Any,
) -> Job:
    """Train a network on a table in the background and return at once.

    The table is read and checked before a job exists, so that a wrong file, column or option is an error
    here and leaves nothing behind; a file above 50 MB, unpacked, is checked by the job itself, in its first phase.

    Args:
        data: the path of a CSV, TSV, JSONL or Parquet file (gzipped too), an open file, a DataFrame of pandas or
            another library, a dict of columns, a list of dicts, or nothing for a synthetic table.  The job trains
            on the table as it is at the call, whatever is done to it later.
        target: the column to predict; without it a column named y, target or label.  A number where a
            DataFrame's columns have numbers for names.
        runner: ``"thread"``, ``"process"`` or ``"ray"``; without it the first that can do what is asked for.
        ranks: how many processes train together, each on its share of every batch.
        gpus_per_rank: how many GPUs each of them needs.
        retries: how often they are started again from the last checkpoint when one of them, or its machine, is
            lost.
        address: of a Ray cluster's dashboard, or ``"local"``.
        name: what people call the job; without it the file's name.
        job_id: the job's id, if you have one; it must not be taken.
        root: where the files go; without it ``TRAINKIT_ROOT`` or the current folder.
        max_time: for how long the job may run, as for :func:`submit`.
        on_done: called with the job when it has ended, as for :func:`submit`.
        **options: ``epochs``, ``batch_size``, ``lr``, ``hidden`` (a width, or one for each layer), ``dropout``,
            ``task`` (``"regression"`` or ``"classification"``), ``val_fraction``, ``patience`` (in epochs),
            ``seed``, ``device``, ``log_every`` (in steps), ``missing`` (words, as ``("NA", "?")``), and of a CSV
            file ``delimiter``; ``trainkit train --help`` says what each takes.  What is left out is chosen from
            the data, and shown in the record.

    Raises:
        TableError: the table cannot be read or learnt from; the message names the place.
        OptionError: an option is unknown or out of its range.
        JobIdError, JobExistsError: the id cannot be used.
    """
    from trainkit.tabular.options import check_options

    resources = check_resources(ranks=ranks, gpus_per_rank=gpus_per_rank, retries=retries, address=address)
    runner = runner or suitable_runner(resources)
    given = {"target": _column_name(target), **options}
    checked = check_options(given)
    chosen = {key: getattr(checked, key) for key, value in given.items() if value is not None}
    if checked.device is not None and runner != "ray":
        from trainkit.training.devices import check_device

        check_device(checked.device)
    return start_training(
        _prepare_table(data, chosen, keep_frame=runner == "thread"),
        chosen,
        runner=runner,
        resources=resources,
        name=name,
        job_id=job_id,
        root=root,
        max_time=max_time,
        on_done=on_done,
    )


class Prepared(NamedTuple):
    """A table that was checked, or that its job will check.

    Attributes:
        data: what the job gets: a path, a DataFrame, or None for a synthetic table.
        name: of the table.
        params: what the record shows.
        message: the record's first message.
    """

    data: Any
    name: str
    params: dict[str, Any]
    message: str

    @classmethod
    def of_file(cls, path: Path, options: Mapping[str, Any], checked: Checked) -> Prepared:
        """Return what is known of a file after :func:`trainkit.tabular.checking.check_file`."""
        params = {"data": str(path), **(checked.params or options)}
        return cls(str(path), path.name.split(".")[0], params, checked.summary)


def _prepare_table(data: Any, options: Mapping[str, Any], *, keep_frame: bool) -> Prepared:
    from trainkit.tabular.checking import CHECKED_BEFORE_BYTES, Checked
    from trainkit.tabular.options import check_options
    from trainkit.tabular.plan import check_table
    from trainkit.tabular.read import unpacked_bytes
    from trainkit.tabular.sources import SOURCE, open_table

    path = Path(os.path.expanduser(data)).absolute() if isinstance(data, (str, os.PathLike)) else None
    if path is not None and unpacked_bytes(path, CHECKED_BEFORE_BYTES) > CHECKED_BEFORE_BYTES:
        return Prepared.of_file(path, options, Checked())
    checked = check_options(options)
    frame, _ = open_table(data, checked)
    plan = check_table(frame, checked, path=path)
    # A thread shares the table that was read; a process reads the file itself.
    if path is not None and not keep_frame:
        return Prepared.of_file(path, options, Checked(plan.params, plan.summary))
    if data is not None:
        frame.attrs[SOURCE] = str(path or "")
    name = path.name.split(".")[0] if path else "synthetic" if data is None else "table"
    params = {"data": _shown(data, len(frame)), **plan.params}
    return Prepared(None if data is None else frame, name, params, plan.summary)


def start_training(
    table: Prepared,
    options: Mapping[str, Any],
    *,
    runner: str,
    resources: Resources = Resources(),  # noqa: B008 - it is frozen
    name: str | None = None,
    job_id: str | None = None,
    root: Store | str | Path | None = None,
    max_time: float | str | None = None,
    on_done: Callable[[Job], object] | None = None,
) -> Job:
    """Start a job on a table that was checked before.

    Args:
        table: what the job gets.
        options: those that were given, as :func:`trainkit.tabular.options.check_options` returned them.
        runner, resources, name, job_id, root, max_time, on_done: see :func:`train`.
    """
    from trainkit.tabular import train_function
    from trainkit.tabular.options import check_options

    return launch(
        Task(train_function, {"data": table.data, **options}),
        randomness=Randomness(check_options(options).seed, True, OWN_GENERATORS),
        params=table.params,
        runner=runner,
        resources=resources,
        name=table.name if name is None else name,
        job_id=job_id,
        root=root,
        message=table.message,
        max_time=max_time,
        on_done=on_done,
    )


def _column_name(target: Any) -> str | None:
    """Return a column's name as text, as that of each column is read."""
    plain = plain_value(target)
    is_number = isinstance(plain, int) and not isinstance(plain, bool)
    return str(plain) if is_number else plain


def _shown(data: Any, rows: int) -> str:
    if data is None:
        return "synthetic table"
    if isinstance(data, (str, os.PathLike)):
        return os.fsdecode(data)
    return f"{type(data).__name__} of {rows} row{'s' * (rows != 1)}"


def launch(
    task: Task,
    *,
    params: Mapping[str, Any],
    runner: str,
    name: str,
    job_id: str | None,
    root: Store | str | Path | None,
    resources: Resources = Resources(),  # noqa: B008 - it is frozen
    message: str = "",
    max_time: float | str | None = None,
    patience: int | None = None,
    on_done: Callable[[Job], object] | None = None,
    randomness: Randomness = Randomness(),  # noqa: B008 - it is frozen
) -> Job:
    """Make a job's files and hand it to a runner; on any failure nothing is left behind.

    Args:
        task: what to run.
        params: what the record shows of its arguments.
        runner: the runner's name.
        name: what people call the job.
        job_id: its id, or None to have one made.
        root: where the files go.
        resources: what it should run on.
        message: the record's first message.
        max_time, patience, on_done: see :func:`submit`.
        randomness: what is asked for, or known, of its random numbers.

    Raises:
        OptionError: an option is out of its range.
    """
    find_runner(runner)
    limits = _limits(max_time, patience)
    if on_done is not None and not callable(on_done):
        raise OptionError(f"on_done={on_done!r:.80}: expected a function that takes the job")
    store = Store.at(root)
    created_at = time.time()
    job_id = check_job_id(job_id) if job_id is not None else new_job_id(created_at)
    record = Record(
        job_id=job_id,
        name=str(name),
        status=Status.QUEUED,
        message=message,
        params=to_jsonable(params),
        runner=runner,
        resources=resources,
        created_at=created_at,
        updated_at=created_at,
        heartbeat_at=created_at,
        limits=limits,
        randomness=randomness,
    )
    job = Job.of(record, store)

    def call_when_done() -> None:
        if on_done is not None:
            job.add_done_callback(on_done)

    begin(store, record, task, then=call_when_done)
    return job


def _limits(max_time: object, patience: object) -> Limits:
    """Check when a job should end by itself.

    Raises:
        OptionError: not a time above 0, or not a whole number from 1 on.
    """
    return Limits(
        max_time_s=None if max_time is None else seconds(plain_value(max_time), name="max_time"),
        patience=None if patience is None else whole_number(patience, "patience", least=1),
    )
