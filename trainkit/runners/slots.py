"""The queue of jobs on one machine: how many run at once, and who is next.

Every job that waits or runs holds the lock of a ticket file.  Tickets sort by the time they were drawn; a
waiting job may run when fewer than ``limit`` others run or wait before it.  A killed job's lock is free,
so its ticket counts no more.  The limit holds across all processes of one user.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from trainkit.errors import OptionError, RunnerError, telling
from trainkit.files.locks import FileLock, is_locked, locked, try_lock

LIMIT_VARIABLE = "TRAINKIT_MAX_JOBS"
FOLDER_VARIABLE = "TRAINKIT_QUEUE"
_RUNNING = b"running\n"


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
    tickets = sorted((folder or queue_folder()).glob("*.ticket"))
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
        with locked(self._mutex):
            self._path = self._folder / f"{drawn_at:020d}.{job_id}.ticket"
            lock = try_lock(self._path)
            assert lock is not None, "nobody else draws this ticket"
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

    def try_start(self, limit: int) -> list[str]:
        """Start if a place is free.

        Args:
            limit: how many jobs may run at once.

        Returns:
            An empty list if the job runs from now on, else the ids of the jobs it waits for.
        """
        assert self._lock is not None, "the ticket was given back"
        with locked(self._mutex):
            ahead: list[str] = []
            for path in sorted(self._folder.glob("*.ticket")):
                if path == self._path:
                    continue
                if is_locked(path) is not True:
                    with contextlib.suppress(OSError):  # it counts for nothing wherever it stays
                        path.unlink(missing_ok=True)  # safe under the mutex: no ticket is drawn meanwhile
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


def _is_running(ticket: Path) -> bool:
    with telling(ticket):
        return ticket.read_bytes() == _RUNNING


def wait_for_turn(
    ticket: Ticket,
    *,
    limit: Callable[[], int],
    give_up: Callable[[], bool],
    waiting_for: Callable[[list[str]], None],
    pause: Callable[[float], None] = time.sleep,
    every_s: float = 0.05,
) -> bool:
    """Wait until the ticket's job may run.

    Args:
        ticket: the place in the queue.
        limit: how many jobs may run at once, asked anew each time.
        give_up: asked between tries; True ends the waiting.
        waiting_for: told the ids of the jobs ahead whenever they change.
        pause: waits for a number of seconds.
        every_s: seconds between two tries.

    Returns:
        True if the job runs now, False if it gave up.
    """
    told: list[str] = []
    while not give_up():
        ahead = ticket.try_start(limit())
        if not ahead:
            return True
        if ahead != told:
            waiting_for(ahead)
            told = ahead
        pause(every_s)
    return False
