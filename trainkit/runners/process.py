"""Runs a job in a fresh interpreter of its own session: survives the kernel, can be killed, needs pickling.

The kernel is never forked.  It starts a supervisor, which holds the owner's lock from its first instant
because the descriptor is handed to it, and its worker: at once if it is the job's turn, so that both get ready
side by side, else when it is.  :mod:`trainkit.runners.spare` may have had both ready before.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import IO

import psutil

from trainkit.errors import OptionError, RunnerError
from trainkit.files.locks import FileLock
from trainkit.files.opening import opened
from trainkit.files.owners import is_running, runs_job
from trainkit.files.record import Record
from trainkit.files.store import Handle, Store
from trainkit.runners import spare
from trainkit.runners.descriptors import check_open_files
from trainkit.runners.environment import without_private
from trainkit.runners.handover import Errand, send
from trainkit.runners.openmp import wait_briefly
from trainkit.runners.queueing import starts_at_once
from trainkit.runners.slots import Ticket
from trainkit.runners.spare import Supervisor
from trainkit.runners.task import Task, write_task

#: A task above this size is written with a warning: everything the function mentions travels along.
LARGE_TASK_BYTES = 100_000_000


def check(record: Record) -> None:
    """Refuse what this machine does not have."""
    if os.name != "posix":
        raise RunnerError("runner='process' needs Linux or macOS; use runner='thread' on this system")
    if record.resources.address is not None:
        raise OptionError("runner='process' is this machine; for a cluster's address use runner='ray'")
    check_open_files()
    wanted = record.resources.gpus_per_rank
    if wanted > 1:
        raise OptionError(f"gpus_per_rank={wanted}: runner='process' gives each rank one GPU, or none")
    if wanted:
        import torch

        if (found := torch.cuda.device_count()) < record.resources.ranks:
            raise OptionError(
                f"{record.resources.ranks} ranks with a GPU each need as many GPUs, and this machine has {found}"
            )


def submit(
    store: Store, record: Record, task: Task | None, lock: FileLock, ticket: Ticket, handle: Handle
) -> None:
    """Start the job's supervisor.

    Raises:
        TaskError: the function cannot be pickled.
    """
    paths = store.paths(record.job_id)
    if task is not None:
        write_task(paths, task)
    handle.ticket = ticket.path.name
    store.write_handle(record.job_id, handle)
    environment = _environment()
    may_run = record.resources.ranks == 1 and starts_at_once(ticket)
    with opened(paths.output, "ab") as output:
        errand = Errand(str(store.root), record.job_id, str(ticket.path), lock.fd, ticket.fd, output.fileno())
        supervisor = _sent(spare.take(environment), errand) if may_run else None
        if supervisor is None:
            supervisor = _sent(_start("now" if may_run else "later", environment, output), errand)
        if supervisor is None:
            raise RunnerError(f"the job's process could not be started; {paths.output} may tell why")
    lock.close()
    ticket.hand_over()
    # Reaps the supervisor when it has ended; as long as this process lives, nobody else can.
    threading.Thread(target=supervisor.wait, name=f"trainkit-reap-{record.job_id}", daemon=True).start()
    spare.prepare_when_idle(prepare)


def prepare() -> bool:
    """Have a worker in reserve, so that the next process job starts at once; return whether there is room."""
    environment = _environment()
    return spare.prepare(lambda: _start("spare", environment, subprocess.DEVNULL), environment)


def _start(how: str, environment: Mapping[str, str], output: int | IO[bytes]) -> Supervisor:
    """Start a supervisor that waits for its job; :mod:`trainkit.runners.starter` tells how."""
    ours, theirs = socket.socketpair()
    with theirs:
        started = subprocess.Popen(
            [sys.executable, "-m", "trainkit.runners.starter", str(theirs.fileno()), how],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(theirs.fileno(),),
            env=environment,
        )
    return Supervisor(started, ours)


def _sent(supervisor: Supervisor | None, errand: Errand) -> subprocess.Popen[bytes] | None:
    """Hand the job over; None if nobody is there to take it."""
    if supervisor is None:
        return None
    with supervisor.connection as connection:
        try:
            send(connection, errand)
        except OSError:
            supervisor.process.kill()
            supervisor.process.wait()
            return None
    return supervisor.process


def address_again(store: Store, record: Record) -> None:
    """Return None: there is no cluster here."""


def poll(store: Store, record: Record) -> bool | None:
    """Whether the worker or its supervisor lives."""
    return store.is_owned(record)


def kill(store: Store, record: Record) -> None:
    """Kill the worker's whole session; the supervisor then writes how it ended.

    Raises:
        RunnerError: it runs on another host, or the process that its handle names does not run this job.
    """
    handle = store.handle(record.job_id)
    workers = handle.processes[1:] if handle else []
    lock = store.paths(record.job_id).owner_lock
    for worker in workers:
        running = is_running(worker)
        if running is None:
            raise RunnerError(f"job {record.job_id!r} runs on {worker.host}; kill it there")
        if not running:
            continue
        holds = worker.pid > 1 and runs_job(worker, lock)
        if not holds:
            if not is_running(worker):
                continue  # it ended between the two questions
            if holds is None:
                raise RunnerError(
                    f"process {worker.pid}, which by its files runs job {record.job_id!r}, is another user's, "
                    "so it was not killed. stop() asks it to end at its next step; its user can kill it"
                )
            raise RunnerError(
                f"process {worker.pid}, which {store.paths(record.job_id).handle} names, does not hold the lock "
                f"of job {record.job_id!r}, so it was not killed. Were the files copied, or written by another "
                "program? If it is the job's process after all, end it with `kill`"
            )
        kill_session(worker.pid)


def kill_session(pid: int) -> None:
    """Kill the processes of a session leader's group, also those that it has left behind.

    Raises:
        RunnerError: a process id that means more than one group, or the first process of the system.
    """
    if pid <= 1:
        raise RunnerError(f"process id {pid} is not that of a job; nothing was killed")
    with contextlib.suppress(ProcessLookupError):  # the last of them ended a moment ago, as was wanted
        os.killpg(pid, signal.SIGKILL)


def kill_descendants(pid: int) -> None:
    """Kill every process below one, whatever session it is in."""
    for child in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # as in kill_session
            child.kill()


def _environment() -> dict[str, str]:
    """Return the environment of this process without what is for a notebook's kernel, or its server, only."""
    environment = {**without_private(os.environ), "PYTHONUNBUFFERED": "1"}
    wait_briefly(environment)
    if "inline" in environment.get("MPLBACKEND", ""):
        environment["MPLBACKEND"] = "agg"
    return environment
