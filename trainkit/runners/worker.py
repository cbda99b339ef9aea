"""Runs a job to its end and says how it ended.  The same in a thread and in a process of its own.

``python -m trainkit.runners.worker ROOT JOB_ID LOCK_FD TICKET_FD`` is the process that a supervisor starts;
torchrun starts several, without the descriptors, as the ranks of one job.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import trainkit
from trainkit.errors import NO_ROOM, CheckpointError, RecordError, StateError, StoreError, TaskError
from trainkit.files.endings import Ending, error_info, failed, interrupted, reached
from trainkit.files.locks import FileLock
from trainkit.files.masking import has_mask, unmasked
from trainkit.files.modelfile import exported
from trainkit.files.owners import this_process
from trainkit.files.paths import JobPaths
from trainkit.files.plain import to_jsonable
from trainkit.files.record import EndedBy, Environment, ErrorInfo, Phase, Record, Status
from trainkit.files.recorder import Recorder, SilentRecorder
from trainkit.files.store import Store
from trainkit.files.trust import job_key
from trainkit.files.units import duration
from trainkit.files.whole import write_atomically
from trainkit.ranks.deadlock import DeadlockWatch
from trainkit.ranks.ends import LOST_ANOTHER, RankEndError, tell_rank_end
from trainkit.ranks.group import ALONE, Ranks, is_loss_of_a_peer, join_local, unwrapped
from trainkit.resuming.checkpoints import save_model, take_up
from trainkit.resuming.kept import Kept
from trainkit.resuming.randomness import random_numbers
from trainkit.resuming.steering import history_of, load_plan
from trainkit.runners.loans import Place, taken
from trainkit.runners.orphans import die_with_parent, ending_forked_children
from trainkit.runners.outcomes import Outcome
from trainkit.runners.task import Task, dump_outcome, read_task
from trainkit.training.boundary import StopRun
from trainkit.training.output import send_output_to
from trainkit.training.run import Run
from trainkit.training.timelimit import TimeLimit
from trainkit.watching.watcher import Watcher

#: How a job was ended, in the words of one that repeats it.
_ENDED = {
    EndedBy.USER: "on request",
    EndedBy.TIME_LIMIT: "by its time limit",
    EndedBy.EARLY_STOPPING: "by early stopping",
}


def work(
    recorder: Recorder,
    task: Task,
    outcome: Outcome,
    *,
    keep_outcome: Callable[[Outcome], None] = lambda outcome: None,
    ranks: Ranks = ALONE,
    own_process: bool = False,
) -> None:
    """Run a task until it ends, and write its terminal state.

    Of several ranks the first does so, if all came to their end.  Otherwise each writes down what it knows of
    it, and who started them decides.

    Args:
        recorder: holds the record of a queued job; closed at the end.
        task: what to run.
        outcome: filled with what came out.
        keep_outcome: called before the terminal state is published, so that whoever sees the state finds
            the outcome too.
        ranks: those who run it together.
        own_process: whether this process is the task's alone, so that it ends at once when the job is killed.

    Raises:
        RankEndError: a rank of several did not come to its end, so that the others are to be ended.
    """
    paths = recorder.store.paths(recorder.record.job_id)
    try:
        resumed = checkpoint_of(recorder.store, recorder.record)
        plan = load_plan(paths.plan)
    except (CheckpointError, RecordError) as error:
        outcome.error = error
        outcome.settled.set()
        _fail(recorder, error, ranks, doing="it could not be resumed")
        return
    # Other ranks may already tell of this attempt; what it goes on from is in those before it.
    history = history_of(paths.events, plan, before_attempt=recorder.record.attempt)
    history.begin(resumed["changes"] if resumed and resumed.get("job_id") == recorder.record.job_id else 0)
    run = Run(recorder, recorder.record.params, resumed=resumed, history=history, plan=plan, ranks=ranks)
    # The record has no secrets; the code that runs has them, also in run.params.
    planned = {name: unmasked(value, task.arguments.get(name, value)) for name, value in plan.arguments.items()}
    task = Task(task.function, {**task.arguments, **planned})
    for name in [name for name in run.params if name in task.arguments]:
        # A masked one is never changed live, so that the record is right; a checkpoint may be of another job.
        shown = recorder.record.params.get(name) if has_mask(run.params[name]) else run.params[name]
        run.params.update({name: unmasked(shown, task.arguments[name])})
    outcome.run = run
    if count := plan.not_followed + history.not_followed:
        recorder.warn(
            f"{count} of the events to go on from make no sense and were passed over; see {paths.events}"
        )

    def hear(request: Mapping[str, Any]) -> None:
        if own_process and request.get("action") == "kill":
            os._exit(1)  # who started it tells the end; on a cluster nobody else stops it from writing soon enough
        run.control.receive(request)

    def end_apart(told: str) -> None:
        """End this rank, whose training thread is within a step that never ends."""
        outcome.error = StateError(told).with_traceback(whereabouts(training))
        _rank_end(paths, ranks.rank, outcome.error)
        keep_outcome(outcome)
        recorder.abandon()
        os._exit(1)

    recorder.on_request = hear
    if ranks.rank == 0:
        recorder.before_refresh = run.report
    watcher = Watcher(recorder, run.stopwatch, run.gradients)
    limit = TimeLimit(recorder, run.control)

    def look(now: float, late_s: float) -> None:
        if ranks.rank == 0:
            with recorder.surviving("keeping the time limit"):
                limit.look(now)
        watcher.look(now, late_s)

    recorder.metrics.on_metrics, recorder.on_round = watcher.hear, look
    identity, training = this_process(), threading.get_ident()
    recorder.change(
        Status.RUNNING,
        told={"params": to_jsonable(run.params), "from_step": run.step, "changes": len(history.made)},
        phase=Phase.STARTING,
        message="",
        environment=Environment(python=platform.python_version(), trainkit=trainkit.__version__),
        started_at=recorder.clock(),
        pid=identity.pid,
        process_started_at=identity.started_at,
        boot_id=identity.boot_id,
        host=identity.host,
    )
    recorder.start()
    DeadlockWatch(ranks, lambda: run.step_of_batches, end_apart).start()
    _note_environment(recorder)
    try:
        ending = _run_to_the_end(run, recorder, task, outcome, ranks)
    except RankEndError:
        if ranks.rank > 0:  # what rank 0 has is the loss of another one
            keep_outcome(outcome)
        recorder.abandon()
        raise
    finally:
        run.control.close()
        if not own_process:
            outcome.release_run()
    keep_outcome(outcome)
    limit.note()
    recorder.close(ending)
    if outcome.error is not None:
        _release_the_others(ranks, outcome.error)


def _run_to_the_end(run: Run, recorder: Recorder, task: Task, outcome: Outcome, ranks: Ranks) -> Ending:
    """Call the function and save what it leaves."""
    try:
        stopped = _call(run, recorder, task, outcome)
        recorder.note(phase=Phase.FINALIZING)
        outcome.value = unwrapped(outcome.value)
        usable, elsewhere = False, ""
        if ranks.rank == 0:
            usable, elsewhere = _leave_model(run, recorder, outcome.value, stopped=stopped)
        run.control.agreement.leave(run.step)
        ranks.close()
    except KeyboardInterrupt as interrupt:
        outcome.error = interrupt
        return interrupted(interrupt, hide=__file__)
    except BaseException as error:  # the boundary of user code: all it raises is told
        outcome.error = error
        if ranks.rank > 0 or (ranks.world_size > 1 and is_loss_of_a_peer(error)):
            raise _rank_end(recorder.store.paths(run.job_id), ranks.rank, error) from error
        return failed(error, hide=__file__)
    record, ended_by = recorder.record, run.control.ended_by
    timed_out = ended_by is EndedBy.TIME_LIMIT and record.status is Status.STOPPING
    ending = reached(
        ended_by,
        record.message,
        stopped=stopped,
        finishing=run.finishing,
        usable=usable,
        saved=bool(run.tracked),
        limit=f"its time limit of {duration(record.limits.max_time_s or 0)}" if timed_out else "",
    )
    if run.control.repeats and run.control.noticed:
        message = f"ended where the job that it repeats was ended {_ENDED[ended_by]}"
        ending = dataclasses.replace(ending, message=message)
    if elsewhere:
        ending = dataclasses.replace(ending, message="; ".join(filter(None, (ending.message, elsewhere))))
    return ending


def _call(run: Run, recorder: Recorder, task: Task, outcome: Outcome) -> bool:
    """Call the function; return whether it was cut, rather than came to its own end."""
    try:
        with (
            random_numbers(recorder.record, warn=run.warn, note=lambda told: recorder.note(randomness=told)),
            ending_forked_children(),
        ):
            outcome.value = task.function(run, **task.arguments)
        outcome.returned = True
        if (stopped := run.stopped) and run.tracked:
            run.save_now()
    except StopRun:
        return True
    return stopped


def _leave_model(run: Run, recorder: Recorder, returned: Any, *, stopped: bool) -> tuple[bool, str]:
    """Save the model, if there is one: what the function returned, or else what it tracks.

    Returns:
        Whether there is a model, and where it is, in words, if it is not in its usual place.

    Raises:
        StoreError: it could not be saved, and nothing is COMPLETED whose model is not.
    """
    paths, tracked = recorder.store.paths(run.job_id), run.tracked.get("model")
    own = exported(returned)
    content = own if own is not None else exported(tracked)
    if content is None:
        return False, ""
    try:
        try:
            path = save_model(paths, content)
        except StoreError as error:
            if error.errno not in NO_ROOM or not Kept(paths).give_way():
                raise
            path = save_model(paths, content)
    except StoreError as error:
        saved = recorder.record.checkpoint
        is_in_checkpoint = saved is not None and saved.step == run.step and (own is None or returned is tracked)
        if saved is not None and is_in_checkpoint and content["kind"] == "state_dict":
            return True, f"the model could not be saved ({error}); its weights are in {saved.path}"
        if not stopped or run.finishing:
            raise
        recorder.warn(f"the model could not be saved: {error}")
        return False, ""
    where = path.relative_to(paths.root).as_posix()
    return True, "" if path == paths.model else f"{paths.model.parent} cannot be written; the model is in {where}"


def _fail(recorder: Recorder, error: Exception, ranks: Ranks, *, doing: str) -> None:
    """Tell that nothing could be run; of several ranks the others may be able to, and would wait for this one.

    Raises:
        RankEndError: it is one of several.
    """
    if ranks.rank > 0:
        raise _rank_end(recorder.store.paths(recorder.record.job_id), ranks.rank, error) from error
    recorder.close(failed(error, doing=doing))
    _release_the_others(ranks, error)


def _release_the_others(ranks: Ranks, error: BaseException) -> None:
    """Have the other ranks ended, if there are any: they would wait for rank 0, which has failed."""
    if ranks.world_size > 1:
        raise RankEndError("rank 0 has failed; nobody is to wait for it") from error


def _rank_end(paths: JobPaths, rank: int, error: BaseException) -> RankEndError:
    """Write down what one of several ranks knows of its end, for who started them."""
    told, lost = error_info(error, hide=__file__), is_loss_of_a_peer(error)
    if lost:
        told = ErrorInfo(LOST_ANOTHER, f"rank {rank} lost another one", told.traceback)
    tell_rank_end(paths, rank, told, lost=lost)
    return RankEndError(told.message)


def whereabouts(thread: int) -> TracebackType | None:
    """Return where the function of a thread is now, as if that had raised."""
    trace, frame = None, sys._current_frames().get(thread)
    while frame is not None and frame.f_code.co_filename != __file__:
        trace, frame = TracebackType(trace, frame, frame.f_lasti, frame.f_lineno), frame.f_back
    return trace


def _note_environment(recorder: Recorder) -> None:
    """Find out the versions beside the training: git alone takes some milliseconds."""

    def find_out() -> None:
        environment = Environment(
            python=platform.python_version(),
            torch=_version("torch"),
            trainkit=trainkit.__version__,
            git_commit=_git_commit(),
        )
        recorder.note(environment=environment)

    threading.Thread(target=find_out, name="trainkit-environment", daemon=True).start()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    # By its full path: looking for it, subprocess would change the notebook's warning filters for a moment.
    if (git := shutil.which("git")) is None:
        return None
    try:
        found = subprocess.run(
            [git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return None  # it does not answer, which is what the empty field means
    return found.stdout.strip() if found.returncode == 0 else None


def checkpoint_of(store: Store, record: Record) -> dict[str, Any] | None:
    """Return what a resumed attempt, or a branch, goes on from; None for a job from the start.

    Raises:
        CheckpointError: there is none that is whole.
    """
    branched = record.parent is not None and record.parent.step > 0
    # One that was lost before its first checkpoint begins again.
    again = record.restarts > 0 and not record.resumable
    if again or not (record.attempt > 1 or branched):
        return None
    return take_up(store.paths(record.job_id))


def run_job(store: Store, job_id: str, ranks: Ranks = ALONE) -> None:
    """Be a process of one job: its only one, or one of its ranks.

    Raises:
        RankEndError: a rank of several did not come to its end.
    """
    paths = store.paths(job_id)
    # As rank 0 reads it: a moment later it is RUNNING already.
    record = ranks.gather(store.read(job_id) if ranks.rank == 0 else None)[0]
    assert record is not None, "rank 0 has read it"
    handle = store.handle(job_id)
    if ranks.rank == 0:
        recorder = Recorder(store, record, requests_offset=handle.requests_offset if handle else 0)
    else:
        recorder = SilentRecorder(store, record)

    def keep(outcome: Outcome) -> None:
        if ranks.rank > 0 and outcome.error is None:
            return
        path = paths.rank_result(ranks.rank) if ranks.rank > 0 else paths.result
        try:
            data = dump_outcome(outcome.value, outcome.error, returned=outcome.returned, key=key)
            write_atomically(path, data, durable=False, private=True)
        except (TaskError, StoreError) as error:
            recorder.warn(f"{error}; job.result() cannot bring it back")
        for thread in threading.enumerate():
            if not thread.daemon and thread is not threading.main_thread():
                recorder.warn(
                    f"the function has left the thread {thread.name!r} running; its process stays until that ends"
                )

    try:
        key = job_key(job_id)  # now: what the function makes of its environment is its own
        task = read_task(paths)
    except Exception as error:  # noqa: BLE001 - unpickling imports the user's modules, which may raise anything
        _fail(recorder, error, ranks, doing="the job could not be loaded")
        return
    try:
        place = Place.named(store, job_id, handle.ticket) if handle is not None and ranks.rank == 0 else None
        with taken(place):
            work(recorder, task, Outcome(), keep_outcome=keep, ranks=ranks, own_process=True)
    except RankEndError:
        raise
    except Exception as error:
        if ranks.rank == 0:
            store.tell_failure(recorder.record, error)
        raise


def main(arguments: list[str]) -> None:
    """Be the process that a supervisor or torchrun has started."""
    root, job_id, *fds = arguments
    store = Store(root)
    paths = store.paths(job_id)
    # The job has an owner, and its place in the queue, as long as this process or its supervisor lives.
    held = [FileLock.inherited(int(fd), paths.owner_lock) for fd in fds]
    if not fds:
        die_with_parent()  # one of several ranks: their agent holds the lock for all
    ranks = join_local()
    if ranks.rank > 0:
        send_output_to(paths.rank_output(ranks.rank))
    try:
        run_job(store, job_id, ranks)
        failed_rank = False
    except RankEndError:
        failed_rank = True
    if ranks.world_size > 1:
        # All is written.  The others may be gone, and leaving them in order would wait for them.
        sys.stdout.flush()
        os._exit(failed_rank)
    # The end is written.  What keeps this process alive from here on is the user's: nobody has to wait for it.
    for lock in held:
        lock.release()


if __name__ == "__main__":
    main(sys.argv[1:])
