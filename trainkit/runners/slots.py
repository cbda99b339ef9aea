"""The queue of jobs on one machine: how many run at once, and who is next.

Every job that waits or runs holds the lock of a ticket file.  Tickets sort by the time they were drawn; a
waiting job may run when fewer than ``limit`` others run or wait before it.  A killed job's lock is free,
so its ticket counts no more.  The limit holds across all processes of one user.
"""

from __future__ import annotations

import contextlib
import math
import os
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from trainkit.errors import LockedError, OptionError, RunnerError, telling
from trainkit.files.locks import FileLock, is_locked, locked, try_lock
from trainkit.files.whole import matching

LIMIT_VARIABLE = "TRAINKIT_MAX_JOBS"
FOLDER_VARIABLE = "TRAINKIT_QUEUE"
_RUNNING = b"running\n"
#: How long a job that waits waits for the queue itself, before it looks whether it is still to wait.
_LOOK_S = 0.2
#: For how long the queue may be locked before that is told: a busy machine is no reason to alarm anybody.
_TELL_S = 10.0


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def job_limit() -> int:
    """Return how many jobs may run at once: ``TRAINKIT_MAX_JOBS``, or as many as there are cores.

    Raises:
        OptionError: the variable holds something else than a whole number from 1 on.
    """
    text = os.environ.get(LIMIT_VARIABLE)
    if text is None:
        return usable_cores()
    if not text.isdigit() or int(text) < 1:
        raise OptionError(f"{LIMIT_VARIABLE}={text!r}: expected a whole number from 1 on")
    return int(text)


def queue_folder() -> Path:
    """Return the folder of the tickets, private to this user and gone with a reboot.

    Raises:
        RunnerError: somebody else owns the folder of that name.
    """
    if chosen := os.environ.get(FOLDER_VARIABLE):
        folder = Path(chosen)
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    user = os.getuid() if hasattr(os, "getuid") else os.getlogin()
    folder = Path(tempfile.gettempdir()) / f"trainkit-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = os.lstat(folder)
    if hasattr(os, "getuid") and (found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode)):
        raise RunnerError(f"{folder} belongs to somebody else; set {FOLDER_VARIABLE} to a folder of your own")
    return folder


def live_job_ids(folder: Path | None = None) -> list[str]:
    """Return the ids of all jobs of this user on this machine that run or wait, under whatever root.

    Args:
        folder: where the tickets lie; without it :func:`queue_folder`.
    """
    tickets = matching(folder or queue_folder(), "*.ticket")
    return [path.name.split(".")[1] for path in tickets if is_locked(path)]


class Ticket:
    """A place in the queue, kept until :meth:`close`.

    Args:
        job_id: the job, for others to name what they wait for.
        folder: where the tickets lie; without it :func:`queue_folder`.
        now_ns: the time by which tickets are sorted.
    """

    def __init__(self, job_id: str, *, folder: Path | None = None, now_ns: int | None = None) -> None:
        self._folder = folder or queue_folder()
        self._mutex = self._folder / "queue.lock"
        drawn_at = time.time_ns() if now_ns is None else now_ns
        self._path = self._folder / f"{drawn_at:020d}.{job_id}.ticket"
        # Without the mutex: whoever has it may be stopped, and to submit a job never waits for anybody.
        while (lock := _drawn(self._path)) is None:
            pass
        self._lock: FileLock | None = lock

    @property
    def fd(self) -> int:
        """The descriptor that holds the place, to be passed to a child process."""
        assert self._lock is not None, "the ticket was given back"
        return self._lock.fd

    @property
    def path(self) -> Path:
        """The ticket's file."""
        return self._path

    @classmethod
    def inherited(cls, fd: int, path: Path) -> Ticket:
        """Take over a place in the queue from the parent process."""
        ticket = cls.__new__(cls)
        ticket._folder, ticket._path = path.parent, path
        ticket._mutex = path.parent / "queue.lock"
        ticket._lock = FileLock.inherited(fd, path)
        return ticket

    def hand_over(self) -> None:
        """Let go of the ticket without leaving the queue: a child process holds it now."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def try_start(self, limit: int, *, timeout_s: float = 10.0) -> list[str]:
        """Start if a place is free.

        Args:
            limit: how many jobs may run at once.
            timeout_s: how long to wait for others who look at the queue.

        Returns:
            An empty list if the job runs from now on, else the ids of the jobs it waits for.

        Raises:
            LockedError: somebody else has looked at the queue for longer than that.
        """
        assert self._lock is not None, "the ticket was given back"
        with locked(self._mutex, timeout_s=timeout_s):
            ahead: list[str] = []
            for path in matching(self._folder, "*.ticket"):
                if path == self._path:
                    continue
                if is_locked(path) is not True:
                    _sweep(path)
                    continue
                if path.name < self._path.name or _is_running(path):
                    ahead.append(path.name.split(".")[1])
                    if len(ahead) >= limit:
                        break  # enough to know; with many waiting, looking at all would be the work
            if len(ahead) >= limit:
                return ahead
            with telling(self._path):
                os.write(self._lock.fd, _RUNNING)
            return []

    def close(self) -> None:
        """Leave the queue."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None
            with contextlib.suppress(OSError):  # whoever looks for its turn next sweeps it: nobody holds it
                self._path.unlink(missing_ok=True)


def _drawn(path: Path) -> FileLock | None:
    """Make a ticket and lock it; None if it was swept before it was locked."""
    if (lock := try_lock(path)) is None:
        return None
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(lock.fd), os.stat(path)):
            return lock
    lock.close()
    return None


def _sweep(path: Path) -> None:
    """Remove the ticket of a killed job; what cannot be removed counts for nothing wherever it stays."""
    with contextlib.suppress(OSError):
        # Locked meanwhile, so that who is just drawing it notices.
        if (lock := try_lock(path)) is not None:
            try:
                path.unlink(missing_ok=True)
            finally:
                lock.close()


def _is_running(ticket: Path) -> bool:
    with telling(ticket):
        return ticket.read_bytes() == _RUNNING


def wait_for_turn(
    ticket: Ticket,
    *,
    limit: Callable[[], int],
    give_up: Callable[[], bool],
    waiting_for: Callable[[list[str]], None],
    held_up: Callable[[str], None] = lambda message: None,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
    every_s: float = 0.05,
) -> bool:
    """Wait until the ticket's job may run.

    Args:
        ticket: the place in the queue.
        limit: how many jobs may run at once, asked anew each time.
        give_up: asked between tries; True ends the waiting.
        waiting_for: told the ids of the jobs ahead whenever they change.
        held_up: told once who it is, if somebody keeps all others from looking at the queue.
        clock: seconds, from any beginning.
        pause: waits for a number of seconds.
        every_s: seconds between two tries.

    Returns:
        True if the job runs now, False if it gave up.
    """
    told: list[str] = []
    tell_at: float | None = None
    while not give_up():
        try:
            ahead = ticket.try_start(limit(), timeout_s=_LOOK_S)
        except LockedError as error:
            # A process that is stopped (SIGSTOP, or Ctrl-Z in its shell) at the wrong instant: it may go on.
            tell_at = clock() + _TELL_S if tell_at is None else tell_at
            if clock() >= tell_at:
                held_up(error.holder)
                tell_at, told = math.inf, []
            continue
        tell_at = None
        if not ahead:
            return True
        if ahead != told:
            waiting_for(ahead)
            told = ahead
        pause(every_s)
    return False
