"""A job, seen from outside: read like a ``Future``, driven like a job.

A :class:`Job` knows its id and where its files are, so one made in another process, or tomorrow, is as good as
the one that ``submit`` returned.  One exception: a result that cannot be pickled is lost when no ``Job`` is left
in the process that ran it.  A ``Job`` reads, and appends requests; it never writes a record.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import threading
import time
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainkit.api import view
from trainkit.api.arguments import merged, shared_with
from trainkit.api.attempts import resume
from trainkit.api.repeating import branch, check_params, replay
from trainkit.api.results import delete, error_of, returned_by
from trainkit.api.snapshot import Snapshot, take
from trainkit.errors import OptionError, RunnerError
from trainkit.files.log_tail import read_last_lines, read_log
from trainkit.files.masking import has_mask
from trainkit.files.paths import JobPaths
from trainkit.files.plain import to_jsonable
from trainkit.files.record import CheckpointInfo, Record, Status, to_dict
from trainkit.files.scalars import whole_number
from trainkit.files.store import Store
from trainkit.files.streams import tail
from trainkit.resuming.kept import available
from trainkit.runners import runner
from trainkit.runners.loans import waiting_for
from trainkit.runners.outcomes import remembered
from trainkit.runners.thread import is_waited_for

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

#: How long a request waits to be acknowledged before the call returns anyway.
ACKNOWLEDGE_S = 1.0
#: How long ``kill`` waits for the processes to be gone.
KILL_S = 10.0


class Job:
    """One job under a root.

    Args:
        job_id: its id.
        root: the root folder or a :class:`~trainkit.files.store.Store`.

    Raises:
        JobIdError: not a job id.
        UnknownJobError: no such job.
        RecordError: its record is damaged.
    """

    def __init__(self, job_id: str, root: Store | str | Path | None = None) -> None:
        self.store = Store.at(root)
        self.id = job_id
        self.name = self.store.read(job_id).name
        self._remembered = remembered(self.store, job_id)

    @classmethod
    def of(cls, record: Record, store: Store) -> Job:
        """Return the job of a record that was read, or made, a moment ago."""
        job = cls.__new__(cls)
        job.store, job.id, job.name = store, record.job_id, record.name
        job._remembered = remembered(store, record.job_id)
        return job

    def __getstate__(self) -> dict[str, Any]:
        return {"store": self.store, "id": self.id, "name": self.name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _remembered=remembered(state["store"], state["id"]))

    @functools.cached_property
    def paths(self) -> JobPaths:
        """Where its files are."""
        return self.store.paths(self.id)

    # --- reading ---------------------------------------------------------------------------------

    @property
    def record(self) -> Record:
        """The record as it is now, with the state that is true now."""
        return self.store.observe(self.id)

    @property
    def state(self) -> Status:
        """The state: QUEUED, RUNNING, PAUSED, STOPPING, COMPLETED, STOPPED, FAILED or INTERRUPTED."""
        return self.record.status

    def status(self) -> dict[str, Any]:
        """Return the whole record as plain values: the JSON of the file, with the state that is true now."""
        return to_dict(self.record)

    @property
    def progress(self) -> float:
        """How much is done, 0 to 100."""
        return self.record.progress

    @property
    def eta(self) -> float | None:
        """The seconds that are left at the present speed, if that can be told."""
        return view.eta_s(self.record)

    def metrics(self) -> pd.DataFrame:
        """Return what was logged: one row per step, the index; columns ``epoch`` and the metrics.

        Where a resumed attempt repeats steps, the newest attempt counts.
        """
        from trainkit.api.history import metrics_frame

        return metrics_frame(self.paths.metrics)

    def events(self) -> list[dict[str, Any]]:
        """Return all that happened, oldest first: state changes, requests, live changes, checkpoints, warnings."""
        return tail(self.paths.events)[0]

    def warnings(self) -> list[str]:
        """Return what the newest attempt warned of and has not passed, oldest first; each says what to do."""
        return view.standing_warnings(self.events())

    def logs(self, tail: int | None = None) -> str:
        """Return what the training code printed, as a terminal shows it: a progress bar is its last frame.

        Args:
            tail: only that many last lines; no more than the end of the file is read then.

        Raises:
            OptionError: ``tail`` is not a whole number, or is negative.
        """
        if tail is None:
            return read_log(self.paths.output)
        return read_last_lines(self.paths.output, whole_number(tail, "logs(tail=...)"))

    def plot(self, *metrics: str) -> Figure:
        """Return a chart of each metric, training and validation together.

        Args:
            *metrics: names of metrics, where ``*`` stands for anything: ``job.plot("loss", "layer*/grad_norm")``;
                without them all.  Of very many, metrics whose names differ only in a part share a chart.

        Raises:
            MissingExtraError: matplotlib is not installed.
            OptionError: no metric has such a name.
        """
        from trainkit.api.history import metrics_figure

        return metrics_figure(self.metrics(), self.record, metrics)

    # --- waiting ---------------------------------------------------------------------------------

    def done(self) -> bool:
        """Whether the job has ended, however it did."""
        return self.state.terminal

    def running(self) -> bool:
        """Whether the job has begun and has not ended."""
        return self.state in (Status.RUNNING, Status.PAUSED, Status.STOPPING)

    def wait(self, timeout: float | None = None) -> Status:
        """Wait until the job has ended, and return its state.

        A training function may wait for jobs of its own: while such a job is queued, the place in the queue of the
        job that waits is lent to it.

        Args:
            timeout: seconds.

        Raises:
            StateError: it is the job that this very function belongs to.
            TimeoutError: it has not ended by then.  The job goes on.
        """
        give_up_at = None if timeout is None else time.monotonic() + timeout
        pause_s = 0.005
        with waiting_for(self.store, self.id) as lend:
            while not (state := self.state).terminal:
                if give_up_at is not None and time.monotonic() >= give_up_at:
                    raise TimeoutError(f"job {self.name!r} is {state} after {timeout:g} s; it goes on")
                if state is Status.QUEUED:
                    lend()
                time.sleep(pause_s)
                pause_s = min(0.1, pause_s * 1.5)
        return state

    def result(self, timeout: float | None = None, *, trust: bool = False) -> Any:
        """Wait for the job and return what its function returned.

        The result of another process is a pickle, which can run any code when it is loaded.  One that no job of
        this user has written is refused: that of another user, of a downloaded folder, or of an older version.  So
        is one that was written where this user has another private key (``~/.local/state/trainkit/key``), such as
        on another machine.

        Args:
            timeout: seconds.
            trust: load it even if its author is not known: everyone who can write to the job's folder is trusted.

        Raises:
            TimeoutError: it has not ended by then.
            TrustError: the result was not written by a job of this user.
            JobStoppedError: it was stopped; what it had is in :meth:`model` and its checkpoint.
            JobInterruptedError: its process vanished.
            Exception: what its function raised.
        """
        self.wait(timeout)
        record = self.record
        if (error := error_of(self.store, record, trust=trust)) is not None:
            raise error
        return returned_by(self.store, record, trust=trust)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the job and return the exception that :meth:`result` raises for how it ended, or None.

        That is what its function raised; ``JobStoppedError`` where it was stopped before its function returned; or
        ``JobInterruptedError``.  Nothing is unpickled of a job that this user did not run: a ``JobFailedError``
        has the type, message and traceback instead.

        Args:
            timeout: seconds.

        Raises:
            TimeoutError: it has not ended by then.
        """
        self.wait(timeout)
        return error_of(self.store, self.record)

    def add_done_callback(self, fn: Callable[[Job], object]) -> None:
        """Call ``fn(job)`` in a thread of its own once the job has ended, however it did; at once if it has.

        It is this process that calls, also for a job in another one; once this process is gone, nobody does.  What
        ``fn`` raises is printed, and changes nothing in the job.
        """

        def call_when_done() -> None:
            self.wait()
            fn(self)

        # Where a script waits for its job before it exits, it waits for what should follow.
        daemon = not is_waited_for(self.store, self.record)
        threading.Thread(target=call_when_done, name=f"trainkit-done-{self.id}", daemon=daemon).start()

    def __await__(self) -> Generator[Any, None, Any]:
        """``await job`` is :meth:`result` without blocking the event loop."""

        async def settle() -> Any:
            with waiting_for(self.store, self.id) as lend:
                while not (state := self.state).terminal:
                    if state is Status.QUEUED:
                        lend()
                    await asyncio.sleep(0.05)
            return self.result()

        return settle().__await__()

    # --- driving ---------------------------------------------------------------------------------

    def stop(self) -> Status:
        """Ask the job to save and end after its current step; return its state, usually STOPPING.

        On a job that has ended nothing happens.  A function that uses nothing of ``run`` cannot be stopped,
        only killed.
        """
        return self._ask("stop", until=lambda status: status is Status.STOPPING or status.terminal)

    def finish(self) -> Status:
        """Ask the job to end its loops early, validate, export and complete; return its state."""
        return self._ask("finish", until=lambda status: status is Status.STOPPING or status.terminal)

    def pause(self, *, release_gpu: bool = False) -> Status:
        """Ask the job to save and wait after its current step; return its state.

        Args:
            release_gpu: also move what is tracked to the CPU meanwhile, and give back the GPU's memory.
        """
        fields = {"release_gpu": True} if release_gpu else {}
        return self._ask("pause", until=lambda status: status is not Status.RUNNING, **fields)

    def resume(
        self,
        *,
        runner: str | None = None,
        ranks: int | None = None,
        address: str | None = None,
        lost: bool = False,
        trust: bool = False,
    ) -> Status:
        """Let the job go on: at once if it is paused; as a new attempt from its checkpoint if it is over.

        The new attempt reaches the same weights, bit for bit, as a run that was never cut, given
        ``runner="process"``, ``run.track`` of all that changes, and loops over ``run.epochs`` and
        ``run.batches``; what cannot be exact is said in a warning.

        Args:
            runner: for a new attempt, another runner than the job had.
            ranks: for a new attempt, another number of ranks than the job had.
            address: for a new attempt, of the Ray cluster's dashboard; without it the one that the job had.
            lost: you know that the machine or cluster of the job is gone, of which nobody else can tell from here
                whether it is; where that can be told, this changes nothing.
            trust: run the function in the job's folder although no job of this user has written it.

        Returns:
            The job's state.

        Raises:
            StateError: the job completed, or somebody else resumes it at this moment.
            CheckpointError: it has no checkpoint that is whole, or its function could not be kept.
            TrustError: the function was not written by a job of this user, or the address was not named by it.
        """
        record = self.record
        if not record.status.terminal and not (lost and self.store.is_owned(record) is None):
            return self._ask("resume", until=lambda status: status is not Status.PAUSED)
        return resume(self.store, self.id, runner=runner, ranks=ranks, address=address, trust=trust)

    def set(self, /, **params: Any) -> Status:
        """Change parameters of the running job from its next step on; return its state.

        ``run.params`` has them then, and ``lr`` and ``weight_decay`` reach the tracked optimizers by themselves:
        as the value that a tracked scheduler multiplies from, and in proportion where groups differ.

        Args:
            **params: parameters of the job, with their new values.

        Raises:
            OptionError: the job has no parameter of that name, ``lr`` or ``weight_decay`` is not a number, or a
                parameter is named like a secret.
        """
        check_params(self.record, params)
        asked = to_jsonable(params)
        for name in [name for name, value in asked.items() if has_mask(value)]:
            raise OptionError(
                f"{name!r} is named like a secret, or holds one, and requests to a running job are in a file that "
                f"others may read; job.branch({name}=...) starts a job with another value"
            )
        return self._ask("set", params=asked) if params else self.state

    def checkpoint(self) -> Status:
        """Ask for a checkpoint after the current step; return the job's state."""
        return self._ask("checkpoint")

    def checkpoints(self) -> list[CheckpointInfo]:
        """Return the checkpoints that the job can be branched from, by step: with ``step``, ``epoch``, ``reason``.

        The newest two, and those that ``run.checkpoint_every(keep=...)`` keeps.
        """
        return available(self.paths)

    def replay(
        self,
        *,
        runner: str | None = None,
        name: str | None = None,
        job_id: str | None = None,
        address: str | None = None,
        trust: bool = False,
    ) -> Job:
        """Start a job that repeats this one, with every live change, and an early end, at its step.

        It reaches the same weights, bit for bit, where the job is reproducible: with ``runner="process"``, for
        tables, and with ``seed=``; pauses, kills and resumes of the original make no difference.

        Args:
            runner: another runner than the job had.
            name: what people call the new job.
            job_id: its id, if you have one.
            address: of the Ray cluster's dashboard; without it the one that the job had.
            trust: run the function in the job's folder although no job of this user has written it.

        Raises:
            StateError: the job is not over.
            CheckpointError: its function could not be kept.
            TrustError: the function was not written by a job of this user, or the address was not named by it.
        """
        new_id = replay(self.store, self.id, runner=runner, name=name, new_id=job_id, address=address, trust=trust)
        return Job(new_id, self.store)

    def branch(
        self,
        params: Mapping[str, Any] | None = None,
        /,
        *,
        step: int | None = None,
        runner: str | None = None,
        name: str | None = None,
        job_id: str | None = None,
        address: str | None = None,
        trust: bool = False,
        **more: Any,
    ) -> Job:
        """Start a job that goes on from a checkpoint of this one, with other parameters.

        Args:
            params: parameters of the job, with their new values, in a dict: needed for one that is named like an
                option of this method.
            step: of which checkpoint, see :meth:`checkpoints`; without it the newest.
            runner: another runner than the job had.
            name: what people call the new job.
            job_id: its id, if you have one.
            address: of the Ray cluster's dashboard; without it the one that the job had.
            trust: run the function in the job's folder although no job of this user has written it.
            **more: other parameters of the job, with their new values.

        Raises:
            OptionError: the job has no parameter of that name, or it is one that has the name of an option.
            CheckpointError: there is no checkpoint of that step; the message names the steps there are.
            TrustError: the function was not written by a job of this user, or the address was not named by it.
        """
        options = {"step": step, "runner": runner, "name": name, "job_id": job_id, "address": address}
        if params is None and (shared := shared_with(self.record.params, options)) is not None:
            raise OptionError(
                f"branch({shared}={options[shared]!r:.60}) is ambiguous: {shared} is an option, and a parameter "
                f"of job {self.name!r}. Pass parameters in a dict: branch({{{shared!r}: ...}}) changes the "
                f"parameter, branch({{}}, {shared}=...) is the option; both can be given"
            )
        new_id = branch(
            self.store,
            self.id,
            merged("branch", params, more),
            step=step,
            runner=runner,
            name=name,
            new_id=job_id,
            address=address,
            trust=trust,
        )
        return Job(new_id, self.store)

    def kill(self) -> Status:
        """End the job's processes now; what it had not saved is lost.  Returns its state, STOPPED.

        Raises:
            RunnerError: it runs in a thread, or does not die.
        """
        record = self.record
        if record.status.terminal:
            return record.status
        where = runner(record.runner or "thread")
        if record.runner == "thread":
            where.kill(self.store, record)
        self.store.request(self.id, "kill")
        give_up_at = time.monotonic() + KILL_S
        while not (record := self.record).status.terminal:
            where.kill(self.store, record)
            if time.monotonic() > give_up_at:
                raise RunnerError(f"job {self.name!r} is still {record.status} {KILL_S:g} s after it was killed")
            time.sleep(0.02)
        return record.status

    def _ask(self, action: str, *, until: Callable[[Status], bool] | None = None, **fields: Any) -> Status:
        state = self.state
        if state.terminal:
            return state
        self.store.request(self.id, action, time=time.time(), **fields)
        give_up_at = time.monotonic() + ACKNOWLEDGE_S
        while until is not None and not until(state := self.state) and time.monotonic() < give_up_at:
            time.sleep(0.005)
        return state

    def delete(self) -> None:
        """Remove all files of the job, its model too.

        Raises:
            StateError: it has not ended.
        """
        delete(self.store, self.id)

    # --- what it left ----------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Return the model as it is now, with its step: a copy from between two steps where the job runs in this
        process, which disturbs nothing; else the newest that was saved.

        Raises:
            TrainkitError: the job has left no model (yet).
        """
        return take(self.store, self.record)

    def model(self) -> Any:
        """Return the model as it is now.

        For a table that is a :class:`~trainkit.tabular.model.TableModel`; for a function the module that it
        returned or tracks, where this process has it; else the state dict from the model file.
        :meth:`snapshot` also tells of which step it is.

        Raises:
            TrainkitError: the job has left no model (yet).
        """
        return self.snapshot().model

    def predict(self, x: Any) -> Any:
        """Ask the model as it is now, also while it learns.

        Args:
            x: rows of a table (a DataFrame, a dict, …); for a module, what its ``forward`` takes.

        Raises:
            TrainkitError: the job has left no model (yet), or only its weights are here.
        """
        return self.snapshot().predict(x)

    # --- showing ---------------------------------------------------------------------------------

    def panel(self) -> Any:
        """Return the live panel of this job, to display it anywhere: charts to zoom, buttons to press.

        Raises:
            MissingExtraError: the ``notebook`` extra is not installed.
        """
        return importlib.import_module("trainkit.panels.show").monitor(self)

    def _ipython_display_(self) -> None:
        # By name: the panels stand above this module, and only a front end needs them.
        importlib.import_module("trainkit.panels.show").show_job(self)

    def __repr__(self) -> str:
        return view.text(self.record)

    def summary(self, *, times: bool = True) -> str:
        """Return the state as text, with the id, and how long things took unless told otherwise."""
        return view.text(self.record, now=time.time() if times else None, job_id=True)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Job) and (self.id, self.store.root) == (other.id, other.store.root)

    def __hash__(self) -> int:
        return hash((self.id, self.store.root))
