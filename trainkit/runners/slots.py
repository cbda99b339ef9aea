"""The queue of jobs on one machine: how many run at once, and who is next.

Every job that waits or runs holds the lock of a ticket file.  Tickets sort by the time they were drawn; a
waiting job may run when fewer than ``limit`` others run or wait before it.  A killed job's lock is free,
so its ticket counts no more.  The limit holds across all processes of one user.

A ticket's content is one line: ``waiting``, ``running``, ``lent <ticket>`` or ``borrowed <ticket>``.  A job that
waits for a queued job lends its place to that job (:mod:`trainkit.runners.loans`), so that the two take one place.

Programs that clean temporary folders may remove the files.  Each holder makes its own ticket again
(:meth:`Ticket.restore`).
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from trainkit.errors import OptionError, RunnerError, StoreError, telling
from trainkit.files.locks import FileLock, is_locked, locked, try_lock
from trainkit.files.streams import write_all
from trainkit.files.whole import matching

LIMIT_VARIABLE = "TRAINKIT_MAX_JOBS"
FOLDER_VARIABLE = "TRAINKIT_QUEUE"


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
    folder = _default_folder()
    _make_private(folder)
    return folder


def _default_folder() -> Path:
    user = os.getuid() if hasattr(os, "getuid") else os.getlogin()
    return Path(tempfile.gettempdir()) / f"trainkit-{user}"


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    found = os.lstat(folder)
    if hasattr(os, "getuid") and (found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode)):
        raise RunnerError(f"{folder} belongs to another user; set {FOLDER_VARIABLE} to a folder of your own")


def live_job_ids(folder: Path | None = None) -> list[str]:
    """Return the ids of all jobs of this user on this machine that run or wait, under whatever root.

    Args:
        folder: where the tickets lie; without it :func:`queue_folder`.
    """
    tickets = matching(folder or queue_folder(), "*.ticket")
    return [path.name.split(".")[1] for path in tickets if is_locked(path)]


class State(NamedTuple):
    """What a ticket says of its job.

    Attributes:
        kind: ``waiting``, ``running``, ``lent`` or ``borrowed``.
        other: the name of the ticket that the place is lent to, or borrowed from.
    """

    kind: str
    other: str = ""

    @property
    def has_started(self) -> bool:
        """Whether the job runs, or would run if it did not wait for another one."""
        return self.kind in ("running", "lent")

    def encoded(self) -> bytes:
        """Return it as the content of a ticket."""
        return " ".join(filter(None, self)).encode() + b"\n"


WAITING, RUNNING = State("waiting"), State("running")


def read_state(ticket: Path | int) -> State:
    """Return what a ticket says; one that says nothing, or cannot be read, waits."""
    try:
        if isinstance(ticket, int):
            os.lseek(ticket, 0, os.SEEK_SET)
            line = os.read(ticket, 512)
        else:
            line = ticket.read_bytes()
        words = line.split(b"\n")[0].decode().split()
    except (OSError, UnicodeDecodeError):
        return WAITING
    return State(*words[:2]) if words else WAITING


def write_state(fd: int, state: State) -> None:
    """Overwrite what a ticket says, in place: that needs no room on a full disk."""
    os.lseek(fd, 0, os.SEEK_SET)
    write_all(fd, state.encoded())
    os.ftruncate(fd, len(state.encoded()))


def is_held(ticket: Path) -> bool:
    """Whether the job of a ticket runs or waits."""
    return is_locked(ticket) is True


@contextlib.contextmanager
def queue_locked(folder: Path, *, timeout_s: float) -> Iterator[None]:
    """Keep all others from looking at the queue, for a moment.

    Raises:
        LockedError: somebody else has looked at the queue for longer than that.
        StoreError: the folder cannot be used.
    """
    with locked(folder / "queue.lock", timeout_s=timeout_s):
        yield


class Ticket:
    """A place in the queue, kept until :meth:`close`.

    Args:
        job_id: the job, for others to name what they wait for.
        folder: where the tickets lie; without it :func:`queue_folder`.
        now_ns: the time by which tickets are sorted.

    Raises:
        RunnerError: the folder cannot be used.
    """

    def __init__(self, job_id: str, *, folder: Path | None = None, now_ns: int | None = None) -> None:
        drawn_at = time.time_ns() if now_ns is None else now_ns
        try:
            self._path = (folder or queue_folder()) / f"{drawn_at:020d}.{job_id}.ticket"
            # Without the queue's lock: its holder may be stopped, and submitting a job never waits for anybody.
            while (lock := _drawn(self._path)) is None:
                pass
        except OSError as error:
            where = folder or os.environ.get(FOLDER_VARIABLE) or _default_folder()
            reason = os.strerror(error.errno) if error.errno else error
            raise RunnerError(
                f"the folder of the queue, {where}, cannot be used: {reason}; free some room there, or set "
                f"{FOLDER_VARIABLE} to another folder on this machine"
            ) from error
        self._begin(lock)
        with contextlib.suppress(OSError):  # an empty one waits, too; this takes the room for what comes
            write_state(lock.fd, WAITING)

    def _begin(self, lock: FileLock) -> None:
        self._lock: FileLock | None = lock
        self._ahead: list[Path] = []
        self._guard = threading.RLock()  # held where `_lock` changes

    @property
    def fd(self) -> int:
        """The descriptor that holds the place, to be passed to a child process."""
        assert self._lock is not None, "the ticket was given back"
        return self._lock.fd

    @property
    def path(self) -> Path:
        """The ticket's file."""
        return self._path

    @property
    def state(self) -> State:
        """What the ticket says."""
        with self._guard:
            return WAITING if (lock := self._own_lock) is None else read_state(lock.fd)

    @property
    def _own_lock(self) -> FileLock | None:
        # A forked child has the ticket, but neither the lock nor the place.
        return self._lock if self._lock is not None and self._lock.fd >= 0 else None

    @classmethod
    def inherited(cls, fd: int, path: Path) -> Ticket:
        """Take over a place in the queue from the parent process."""
        ticket = cls.__new__(cls)
        ticket._path = path
        ticket._begin(FileLock.inherited(fd, path))
        return ticket

    def hand_over(self) -> None:
        """Let go of the ticket without leaving the queue: a child process holds it now."""
        with self._guard:
            if self._lock is not None:
                self._lock.close()
                self._lock = None

    def try_start(self, limit: int, *, timeout_s: float = 10.0) -> list[str]:
        """Start if a place is free, or was lent to this job.

        Args:
            limit: how many jobs may run at once.
            timeout_s: how long to wait for others who look at the queue.

        Returns:
            An empty list if the job runs from now on, else the ids of the jobs it waits for.

        Raises:
            LockedError: somebody else has looked at the queue for longer than that.
            StoreError: the queue cannot be looked at, or the ticket was removed.
        """
        assert self._lock is not None, "the ticket was given back"
        with queue_locked(self._path.parent, timeout_s=timeout_s):
            tickets = matching(self._path.parent, "*.ticket")
            if self._path not in tickets:
                raise StoreError(f"{self._path} was removed")
            if not self._borrows():
                ahead: list[Path] = []
                for path in tickets:
                    if path == self._path:
                        continue
                    if not is_held(path):
                        _sweep(path)
                        continue
                    if self._counts(path):
                        ahead.append(path)
                        if len(ahead) >= limit:  # enough to know; with many waiting, all would take long
                            self._ahead = ahead
                            return [each.name.split(".")[1] for each in ahead]
            with telling(self._path):
                write_state(self._lock.fd, RUNNING)
            return []

    def is_blocked(self) -> bool:
        """Whether all jobs that were ahead when this one last tried to start still run or wait."""
        return bool(self._ahead) and all(map(is_held, self._ahead))

    def _counts(self, path: Path) -> bool:
        """Whether the job of another ticket takes a place before this one."""
        state = read_state(path)
        if state.kind == "lent":  # the two take one place: that of the other, once it has started
            other = path.with_name(state.other)
            return not (is_held(other) and read_state(other).has_started)
        return state.has_started or path.name < self._path.name

    def _borrows(self) -> bool:
        """Whether a job that waits for this one has lent its place."""
        state = self.state
        if state.kind != "borrowed":
            return False
        lender = self._path.with_name(state.other)
        return is_held(lender) and read_state(lender) == State("lent", self._path.name)

    def restore(self) -> bool:
        """Make the ticket's file again if somebody has removed it; return whether that was necessary.

        Raises:
            StoreError, OSError: it cannot be made now.
            RunnerError: somebody else owns the folder of that name.
        """
        with self._guard:
            if (old := self._own_lock) is None or _is_at(old.fd, self._path):
                return False
            started = read_state(old.fd).has_started
            if self._path.parent == _default_folder():
                _make_private(self._path.parent)
            else:
                self._path.parent.mkdir(parents=True, exist_ok=True)
            if (lock := _drawn(self._path)) is None:
                raise StoreError(f"{self._path} is held by somebody else")
            try:
                with telling(self._path):
                    write_state(lock.fd, RUNNING if started else WAITING)
            except StoreError:
                if started:  # so that it is tried again
                    with contextlib.suppress(OSError):
                        self._path.unlink()
                    lock.close()
                    raise
            self._lock = lock
            old.close()
            return True

    def close(self) -> None:
        """Leave the queue."""
        with self._guard:
            if (lock := self._own_lock) is not None:
                lock.release()
                with contextlib.suppress(OSError):  # the next reader removes it: nobody holds it
                    self._path.unlink(missing_ok=True)
            self._lock = None


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except (FileNotFoundError, NotADirectoryError):
        return False


def _drawn(path: Path) -> FileLock | None:
    """Make a ticket and lock it; None if it was swept before it was locked."""
    if (lock := try_lock(path)) is None:
        return None
    if _is_at(lock.fd, path):
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
