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
from collections import deque

from trainkit.errors import OptionError, RunnerError, StoreError, TaskError, TrainkitError
from trainkit.files.locks import FileLock
from trainkit.files.owners import this_process
from trainkit.files.record import Record, Resources
from trainkit.files.recorder import Recorder
from trainkit.files.store import Handle, Store
from trainkit.runners.descriptors import check_open_files
from trainkit.runners.dispatcher import Dispatcher
from trainkit.runners.kernel import keep_alive
from trainkit.runners.loans import Place, taken
from trainkit.runners.openmp import wait_briefly
from trainkit.runners.outcomes import Outcome, outcome_of, remembered
from trainkit.runners.queueing import QueuedJob
from trainkit.runners.slots import Ticket
from trainkit.runners.task import Task, read_task, write_task
from trainkit.runners.worker import work
from trainkit.training.displays import note_cell
from trainkit.training.output import captured

#: How long an ending kernel waits for its jobs to save.
EXIT_GRACE_S = 10.0
#: The exit code of a script that was interrupted while it waited for a job that does not listen (128 + SIGINT).
_EXIT_INTERRUPTED = 130
#: The jobs that run or wait here.
_jobs: dict[tuple[str, str, int], _ThreadJob] = {}
_ending = threading.Event()


def check(record: Record) -> None:
    """Refuse what takes more than this process."""
    if record.resources != Resources():
        raise OptionError(
            "runner='thread' is this process alone: ranks, gpus_per_rank, retries and address need "
            "runner='process' or runner='ray'"
        )
    check_open_files()


def submit(
    store: Store, record: Record, task: Task | None, lock: FileLock, ticket: Ticket, handle: Handle
) -> None:
    """Start the job's thread in its turn."""
    if task is None:
        task = read_task(store.paths(record.job_id), own_process=False)
    handle.processes = [this_process()]
    store.write_handle(record.job_id, handle)
    if "torch" not in sys.modules:
        wait_briefly(os.environ)
    job = _ThreadJob(store, record, task, lock, ticket, handle.requests_offset)
    _jobs[job.key] = job
    try:
        _dispatcher.add(job)
    except BaseException:  # the system has no room for one more thread
        del _jobs[job.key]
        job.known.outcome = None
        raise
    keep_alive(_running_ids)


def _running_ids() -> list[str]:
    return [job.record.job_id for job in list(_jobs.values())]


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


class _ThreadJob:
    """An attempt of a job that waits or runs here.

    Attributes:
        known: what the handles of the job share; holds its outcome.
        over: set as the last thing.  Nobody joins the thread: a ``join`` that Ctrl-C cuts off takes a thread for
            ended from then on (https://github.com/python/cpython/issues/90882).
    """

    def __init__(
        self, store: Store, record: Record, task: Task, lock: FileLock, ticket: Ticket, requests_offset: int
    ) -> None:
        self.store, self.record, self.task = store, record, task
        self.lock, self.ticket, self.requests_offset = lock, ticket, requests_offset
        self.key = (store.real_root, record.job_id, record.attempt)
        self.queued = QueuedJob(store, record, ticket, requests_offset=requests_offset)
        self.known = remembered(store, record.job_id)
        self.known.outcome = self.outcome = Outcome(record.attempt)
        self.over = threading.Event()
        self.keeping = threading.Lock()  # held while its files are written before it runs
        self._has_started = False
        self._permission: queue.SimpleQueue[bool] = queue.SimpleQueue()  # whether its thread may run it
        # Made here and started in its turn: the context makes widgets and ContextVars of the launching cell work
        # in the thread (ipykernel 7.0 raises LookupError without it, older ones ask who has made the thread).
        # It is a copy, so that nothing set there comes back into the notebook.
        context = contextvars.copy_context()
        context.run(note_cell)
        self._thread = threading.Thread(
            target=context.run,
            args=(_run_and_release, self, self._permission),
            name=f"trainkit-{record.job_id}",
            daemon=_interactive(),
        )

    def start(self) -> None:
        """Start its thread.

        Raises:
            RuntimeError: the system has no room for another thread; it can be tried again.
        """
        try:
            self._thread.start()
        except RuntimeError:
            raise
        except BaseException:
            self._permission.put(False)  # interrupted, the thread may have started, and is not to run unseen
            raise
        self._permission.put(True)

    def wait(self) -> None:
        """Have its function kept for a resume while it waits."""
        _keeper.add(self)

    def cancel(self, *, interrupted: bool) -> None:
        """End it without a run."""
        try:
            with self.keeping:
                self._has_started = True
                self.queued.end(interrupted=interrupted)
        except Exception as error:  # noqa: BLE001 - as in `run`
            self.outcome.error = error
            self.store.tell_failure(self.record, error)
        finally:
            self.leave()

    def keep(self, *, starts: bool = False) -> None:
        """Write its record and its function durably, unless it runs already."""
        with self.keeping:
            if not self._has_started:
                self.store.write_record(self.record, durable=True)
                _keep_for_a_resume(self.store, self.record, self.task)
            self._has_started = self._has_started or starts

    def run(self) -> None:
        """Run it to its end."""
        store, record = self.store, self.record
        try:
            self.keep(starts=True)
            recorder = Recorder(store, record, requests_offset=self.requests_offset)
            place = Place(store, record.job_id, self.ticket.path)
            with captured(store.paths(record.job_id).output), taken(place):
                work(recorder, self.task, self.outcome, keep_outcome=lambda outcome: outcome.write(store, record))
        except Exception as error:  # noqa: BLE001 - an unexpected error must not read as a job that vanished
            self.outcome.error = self.outcome.error or error
            store.tell_failure(record, error)
        finally:
            self.leave()

    def leave(self) -> None:
        """Give up what it holds."""
        self.outcome.settled.set()
        self.ticket.close()
        self.lock.release()
        _dispatcher.leave(self)
        _jobs.pop(self.key, None)
        self.over.set()


def _run_and_release(job: _ThreadJob, permission: queue.SimpleQueue[bool]) -> None:
    """Run the job, then free what the frames of an exception would keep alive, those of the run among them."""
    if not permission.get():
        return
    outcome = job.outcome
    job.run()
    del job
    outcome.release_frames()


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


class _Keeper:
    """One thread that writes the functions of waiting jobs, which may be large; it ends when none is left."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._jobs: deque[_ThreadJob] = deque()
        self._works = False

    def add(self, job: _ThreadJob) -> None:
        """Have the files of a job written soon."""
        with self._guard:
            self._jobs.append(job)
            if self._works:
                return
            threading.Thread(target=self._work, name="trainkit-keeper", daemon=True).start()
            self._works = True

    def _work(self) -> None:
        while True:
            with self._guard:
                if not self._jobs:
                    self._works = False
                    return
                job = self._jobs.popleft()
            with contextlib.suppress(Exception):  # its own thread tries again, and fails with the error if need be
                job.keep()
            del job


def _interactive() -> bool:
    """Whether somebody sits in front of this interpreter (IPython sets ``sys.ps1`` too)."""
    return hasattr(sys, "ps1") or bool(sys.flags.interactive)


def _end_with_the_interpreter() -> None:
    """A script waits for its jobs, a notebook's kernel has them stop and save, while all of Python still works."""
    try:
        if not _interactive():
            for job in list(_jobs.values()):
                job.over.wait()
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
    jobs = list(_jobs.values())
    # A second Ctrl-C, or more of them, means it.
    with contextlib.suppress(KeyboardInterrupt):
        for job in jobs:
            with contextlib.suppress(TrainkitError):  # its files are gone, say: it is waited for all the same
                job.store.request(job.record.job_id, "shutdown")
        give_up_at = time.monotonic() + EXIT_GRACE_S
        for job in jobs:
            job.over.wait(max(0.0, give_up_at - time.monotonic()))
    if not all(job.over.is_set() for job in jobs):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # whatever they were replaced by
                stream.flush()
        os._exit(0 if _interactive() else _EXIT_INTERRUPTED)


def _start_anew_in_forked_child() -> None:
    """A forked child has none of the threads, but would wait for the jobs when it ends."""
    global _dispatcher, _keeper
    _jobs.clear()
    _dispatcher, _keeper = Dispatcher(_ending.is_set), _Keeper()


_dispatcher, _keeper = Dispatcher(_ending.is_set), _Keeper()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew_in_forked_child)
