"""Who runs a job, and whether it still does.

The truth on one machine is the owner's lock; a process is known by pid, start time and boot id, since a
pid alone is soon used again.  This module only reads.
"""

from __future__ import annotations

import functools
import os
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import psutil

from trainkit.files.holders import has_open
from trainkit.files.locks import is_locked

#: The start time of a process is computed from the boot time, which moves by up to a second with the clock.
_START_TOLERANCE_S = 2.0
#: What psutil raises of a process that has ended, and of numbers that are not process ids: negative or too large.
_NO_PROCESS = (psutil.NoSuchProcess, ValueError, OverflowError, TypeError)


class Process(msgspec.Struct, frozen=True):
    """What identifies a process beyond reuse of its pid.

    ``pid_namespace`` tells whose pids they are: those of a container mean other processes, or none, outside of it.
    ``start_ticks`` is when it started, counted from the boot: setting the clock changes only ``started_at``.
    It is None where the system does not report it, and in files of older versions.
    """

    pid: int
    started_at: float
    boot_id: str
    host: str
    pid_namespace: str = ""
    start_ticks: int | None = None


@functools.cache
def boot_id() -> str:
    """An id that changes with every boot of this machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"boot-{psutil.boot_time():.0f}"


@functools.cache
def pid_namespace() -> str:
    """An id of the namespace that the pids of this process belong to; empty where there is no such thing."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def process(pid: int) -> Process:
    """Return the identity of a running process of this machine."""
    started_at, start_ticks = _start_of(pid)
    return Process(pid, started_at, boot_id(), socket.gethostname(), pid_namespace(), start_ticks)


def _start_of(pid: int) -> tuple[float, int | None]:
    return psutil.Process(pid).create_time(), _start_ticks(pid)


def _start_ticks(pid: int) -> int | None:
    """Return when a process started, in ticks since the boot; None where that is not known."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        # The 22nd field; the second is the name of the program, which may hold spaces and brackets.
        return int(stat.rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def this_process() -> Process:
    """Return the identity of the process that calls."""
    pid = os.getpid()
    started_at, start_ticks = _start_of_this(pid)
    return Process(pid, started_at, boot_id(), socket.gethostname(), pid_namespace(), start_ticks)


@functools.lru_cache(maxsize=1)
def _start_of_this(pid: int) -> tuple[float, int | None]:
    """Read once: it does not change, and a forked child has another pid."""
    return _start_of(pid)


def is_running(identity: Process) -> bool | None:
    """Whether that very process still runs; None if it is elsewhere, where it cannot be asked from here."""
    if identity.host != socket.gethostname():
        return None  # a container has its own pids, though it shares the boot
    if identity.boot_id != boot_id():
        return False
    if not _shares_pids(identity):
        return None
    try:
        found = psutil.Process(identity.pid)
        ticks = None if identity.start_ticks is None else _start_ticks(identity.pid)
        same = (
            ticks == identity.start_ticks
            if ticks is not None
            else abs(found.create_time() - identity.started_at) < _START_TOLERANCE_S
        )
        return same and found.status() != psutil.STATUS_ZOMBIE
    except _NO_PROCESS:
        return False


def runs_job(identity: Process, owner_lock: Path) -> bool | None:
    """Whether a process runs the job of a lock: it, or the process that started it, has the owner's lock open.

    Anybody may have written a record and a handle, with the identity of any process. Only the job's own processes
    have the descriptor of the lock: the supervisor, and the worker that it started, which may not have received it
    yet.

    Returns:
        None if it is elsewhere, or if this user may not look at what it has open.
    """
    running = is_running(identity)
    if not running:
        return running
    try:
        found = psutil.Process(identity.pid)
        held = [has_open(pid, owner_lock) for pid in (identity.pid, found.ppid()) if pid > 1]
    except _NO_PROCESS:
        return False
    return True if any(held) else (None if None in held else False)


def is_owned(owner_lock: Path, processes: Iterable[Process]) -> bool | None:
    """Whether somebody is there to run the job; None if that cannot be known from here.

    Args:
        owner_lock: the file whose lock the owner holds.
        processes: those known to run or supervise the job; may be empty while it is handed over.
    """
    known = list(processes)
    if any(each.boot_id != boot_id() and is_running(each) is None for each in known):
        return None  # another kernel's locks are not seen here
    lock = is_locked(owner_lock)
    if lock is None:  # removed from the folder; who holds it has it open all the same
        running = [_runs_without_lock(each, owner_lock) for each in known]
        return None if None in running else any(running)
    # All known pids gone, yet locked: a child that escaped our fork hook has kept the descriptor.  A pid that
    # exists is enough here: start times move when the clock is set, and the lock is the better witness.
    here = [
        each
        for each in known
        if each.host == socket.gethostname() and each.boot_id == boot_id() and _shares_pids(each)
    ]
    return lock and (not known or len(here) < len(known) or any(_pid_lives(each.pid) for each in here))


def _shares_pids(identity: Process) -> bool:
    return identity.pid_namespace in ("", pid_namespace())


def _runs_without_lock(identity: Process, owner_lock: Path) -> bool | None:
    holds = runs_job(identity, owner_lock)
    return is_running(identity) if holds is None else holds


def _pid_lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except _NO_PROCESS:
        return False


class Pulse:
    """How long a heartbeat has not moved, on the reader's own clock: clocks of two hosts are never compared.

    Args:
        clock: seconds, from any beginning.

    >>> times = iter([10.0, 25.0, 26.0])
    >>> pulse = Pulse(clock=lambda: next(times))
    >>> pulse.silent_s("a", 1.0), pulse.silent_s("a", 1.0), pulse.silent_s("a", 2.0)
    (0.0, 15.0, 0.0)
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[str, tuple[float | None, float]] = {}

    def silent_s(self, job_id: str, heartbeat_at: float | None) -> float:
        """Return for how many seconds this reader has seen the same heartbeat."""
        now = self._clock()
        before, since = self._seen.get(job_id, (None, now))
        if before != heartbeat_at:
            since = now
        self._seen[job_id] = (heartbeat_at, since)
        return now - since
