"""Runs a job in a background thread of this process: starts at once, shares live objects, cannot be killed.

When the interpreter ends, a plain script waits for its jobs, as for any thread; a notebook's kernel asks
them to stop and save, since whoever shuts down a kernel is not waiting.
"""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401 - its own registration must come before ours, see below
import contextlib
import contextvars
import os
import queue
import sys
import threading
import time
from typing import Any

from trainkit.errors import OptionError, RunnerError, StoreError, TaskError, TrainkitError
from trainkit.files.locks import FileLock
from trainkit.files.owners import this_process
from trainkit.files.record import Record, Resources
from trainkit.files.recorder import Recorder
from trainkit.files.store import Handle, Store
from trainkit.runners.kernel import keep_alive
from trainkit.runners.openmp import wait_briefly
from trainkit.runners.outcomes import Outcome, Remembered, outcome_of, remembered
from trainkit.runners.queueing import wait_in_queue
from trainkit.runners.slots import Ticket
from trainkit.runners.task import Task, read_task, write_task
from trainkit.runners.worker import work
from trainkit.training.displays import note_cell
from trainkit.training.output import captured

#: How long an ending kernel waits for its jobs to save.
EXIT_GRACE_S = 10.0
#: The exit code of a script that was interrupted while it waited for a job that does not listen (128 + SIGINT).
_EXIT_INTERRUPTED = 130
#: The jobs that run or wait here.  Each thread sets its event last: a ``join`` that Ctrl-C cuts off takes a thread
#: for ended from then on (https://github.com/python/cpython/issues/90882), so nobody joins them.
_running: dict[str, tuple[threading.Event, Store, str]] = {}
_ending = threading.Event()


def check(record: Record) -> None:
    """Refuse what takes more than this process."""
    if record.resources != Resources():
        raise OptionError(
            "runner='thread' is this process alone: ranks, gpus_per_rank, retries and address need "
            "runner='process' or runner='ray'"
        )


def submit(
    store: Store, record: Record, task: Task | None, lock: FileLock, ticket: Ticket, handle: Handle
) -> None:
    """Start the job's thread."""
    if task is None:
        task = read_task(store.paths(record.job_id), own_process=False)
    handle.processes = [this_process()]
    store.write_handle(record.job_id, handle)
    if "torch" not in sys.modules:
        wait_briefly(os.environ)
    known = remembered(store, record.job_id)
    known.outcome = Outcome(record.attempt)
    # The context makes widgets and ContextVars of the launching cell work in the thread (ipykernel 7.0 raises
    # LookupError without it), and it is a copy, so that nothing set there comes back into the notebook.
    context = contextvars.copy_context()
    context.run(note_cell)
    over = threading.Event()
    permission: queue.SimpleQueue[bool] = queue.SimpleQueue()
    thread = threading.Thread(
        target=context.run,
        args=(
            _run_and_release,
            permission,
            store,
            record,
            task,
            known,
            lock,
            ticket,
            handle.requests_offset,
            over,
        ),
        name=f"trainkit-{record.job_id}",
        daemon=_interactive(),
    )
    _running[_key(store, record)] = (over, store, record.job_id)
    try:
        thread.start()
    except BaseException:  # no room for another thread; or, though it has started, an interrupt
        permission.put(False)
        del _running[_key(store, record)]
        known.outcome = None
        raise
    permission.put(True)
    keep_alive(_running_ids)


def _running_ids() -> list[str]:
    return [job_id for _, _, job_id in list(_running.values())]


def address_again(store: Store, record: Record) -> None:
    """Return None: there is no cluster here."""


def poll(store: Store, record: Record) -> bool | None:
    """Whether this process, or the one that launched the job, still holds it."""
    return store.is_owned(record)


def kill(store: Store, record: Record) -> None:
    """Refuse: a thread cannot be killed."""
    raise RunnerError(
        f"job {record.job_id!r} runs in a thread, which cannot be killed; stop() ends it at its next step. "
        "For code that may hang, use runner='process', or restart the kernel."
    )


def is_waited_for(store: Store, record: Record) -> bool:
    """Whether this interpreter runs the job and, when it ends, waits for it."""
    return outcome_of(store, record) is not None and not _interactive()


def _key(store: Store, record: Record) -> str:
    # By its real name: whoever comes to the same folder by a link means the same job.
    return f"{store.real_root}:{record.job_id}:{record.attempt}"


def _run_and_release(
    permission: queue.SimpleQueue[bool], store: Store, record: Record, task: Task, known: Remembered, *rest: Any
) -> None:
    """Run the job, then free what the frames of an exception would keep alive, those of `_run` among them."""
    if not permission.get():
        return
    outcome = known.outcome
    _run(store, record, task, known, *rest)
    del task, known, rest
    if outcome is not None:
        outcome.release_frames()


def _run(
    store: Store,
    record: Record,
    task: Task,
    known: Remembered,
    lock: FileLock,
    ticket: Ticket,
    requests_offset: int,
    over: threading.Event,
) -> None:
    outcome = known.outcome or Outcome(record.attempt)
    try:
        recorder = Recorder(store, record, requests_offset=requests_offset)
        store.write_record(record, durable=True)
        _keep_for_a_resume(store, record, task)
        with captured(store.paths(record.job_id).output):
            if wait_in_queue(recorder, ticket, ending=_ending):
                work(recorder, task, outcome, keep_outcome=lambda outcome: outcome.write(store, record))
    except Exception as error:  # noqa: BLE001 - what we did not foresee must not read as a job that vanished
        outcome.error = outcome.error or error
        store.tell_failure(record, error)
    finally:
        outcome.settled.set()
        ticket.close()
        lock.release()
        _running.pop(_key(store, record), None)
        over.set()


def _keep_for_a_resume(store: Store, record: Record, task: Task) -> None:
    """Write the task down, so that the job can go on when this process is gone."""
    paths = store.paths(record.job_id)
    if paths.task.exists():
        return
    try:
        write_task(paths, task)
    except (TaskError, StoreError):
        # Live objects are what a thread is for.  Such a job ends with its process; `resume` says why.
        return


def _interactive() -> bool:
    """Whether somebody sits in front of this interpreter (IPython sets ``sys.ps1`` too)."""
    return hasattr(sys, "ps1") or bool(sys.flags.interactive)


def _end_with_the_interpreter() -> None:
    """A script waits for its jobs, a notebook's kernel has them stop and save, while all of Python still works."""
    try:
        if not _interactive():
            for over, _, _ in list(_running.values()):
                over.wait()
    except KeyboardInterrupt:
        sys.stderr.write("trainkit: its jobs save and end at their next step; Ctrl-C again leaves at once\n")
    _stop_all()


# Before Python's own waiting for threads: from there on no pool takes work, and no module that has one can be
# imported, torch for example.  The last that is registered is called first, so the pools' own goes before ours.
threading._register_atexit(_end_with_the_interpreter)  # type: ignore[attr-defined]


@atexit.register
def _stop_all() -> None:
    """A thread that is inside torch when the interpreter is torn down aborts the process: have it end first.

    One that does not listen is left running; the process exits around it, without the rest of the tearing down.
    """
    _ending.set()
    jobs = list(_running.values())
    # A second Ctrl-C, or more of them, means it.
    with contextlib.suppress(KeyboardInterrupt):
        for _, store, job_id in jobs:
            with contextlib.suppress(TrainkitError):  # its files are gone, say: it is waited for all the same
                store.request(job_id, "shutdown")
        give_up_at = time.monotonic() + EXIT_GRACE_S
        for over, _, _ in jobs:
            over.wait(max(0.0, give_up_at - time.monotonic()))
    if not all(over.is_set() for over, _, _ in jobs):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # whatever they were replaced by
                stream.flush()
        os._exit(0 if _interactive() else _EXIT_INTERRUPTED)


if hasattr(os, "register_at_fork"):
    # A forked child has none of the threads, but would run the function above when it ends.
    os.register_at_fork(after_in_child=_running.clear)
