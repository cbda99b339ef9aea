"""One worker in reserve, which has loaded torch, so that the next process job starts like a thread.

Nothing is forked from the notebook: the spare is a fresh interpreter that was started early, while nobody waited
for it.  It is made for a notebook that has started a process job before, once no cell has run for a moment, and
where 250 MB do not hurt; it holds no lock of any job, is used only if a fresh interpreter would come out the
same (environment, folder, import path, interpreter, cores, umask, limits, niceness), and ends when its notebook
does, or after half an hour. ``TRAINKIT_SPARE=0`` does without.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import psutil

SPARE_VARIABLE = "TRAINKIT_SPARE"
#: The notebook counts as idle when no cell has run for so long.
IDLE_S = 2.0
#: What must be free, and what there must be at all: Binder gives 1 to 2 GB, which is no place for a spare.
FREE_BYTES, TOTAL_BYTES = 1_500_000_000, 3_500_000_000
#: A spare that is not needed for so long ends.
KEPT_S = 1800.0
_ANSWER_S = 1.0


class Supervisor(NamedTuple):
    """A supervisor that waits for its job at the other end of a socket."""

    process: subprocess.Popen[bytes]
    connection: socket.socket


class _Spare(NamedTuple):
    supervisor: Supervisor
    made_for: Any


_spare: _Spare | None = None
_guard = threading.RLock()
_timer: threading.Timer | None = None
_watching = _wanted = False


def take(environment: Mapping[str, str]) -> Supervisor | None:
    """Return the spare if there is one that a fresh interpreter would not differ from; it is nobody else's then.

    Args:
        environment: what the job's process must find in its environment.
    """
    global _spare
    with _guard:
        spare, _spare = _spare, None
    if spare is None:
        return None
    if spare.made_for == _circumstances(environment) and _answers(spare.supervisor):
        return spare.supervisor
    _end(spare.supervisor)
    return None


def prepare(start: Callable[[], Supervisor], environment: Mapping[str, str]) -> bool:
    """Have a spare from now on, if there is room for one.

    Args:
        start: starts a supervisor with a worker that gets ready.
        environment: of the jobs that it is for.

    Returns:
        Whether there is one.
    """
    global _spare
    with _guard:
        wanted = _circumstances(environment)
        if _spare is not None and _spare.made_for == wanted and _spare.supervisor.process.poll() is None:
            return True
        discard()
        if not allowed() or wanted is None:
            return False
        _spare = _Spare(start(), wanted)
        return True


def prepare_when_idle(make: Callable[[], object]) -> None:
    """Call ``make`` once, in a thread, as soon as this notebook is idle; in a plain script it never is.

    Args:
        make: calls :func:`prepare`.
    """
    global _watching, _wanted
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is None or getattr(shell, "kernel", None) is None:
        return
    with _guard:
        _wanted = True
        if not _watching:
            _watching = True
            shell.events.register("pre_run_cell", lambda *told: _no_longer_idle())
            shell.events.register("post_run_cell", lambda *told: _idle_from_now(make))


def _idle_from_now(make: Callable[[], object]) -> None:
    global _timer

    def make_if_wanted() -> None:
        global _wanted
        with _guard:
            wanted, _wanted = _wanted, False
        if wanted:
            make()

    _no_longer_idle()
    with _guard:
        if _wanted:
            _timer = threading.Timer(IDLE_S, make_if_wanted)
            _timer.daemon = True
            _timer.name = "trainkit-spare"
            _timer.start()


def _no_longer_idle() -> None:
    # Without the guard: a cell does not wait for a spare that is just being started.
    if (timer := _timer) is not None:
        timer.cancel()


def allowed() -> bool:
    """Whether there is memory for a spare, and nobody has said that there should be none."""
    if os.environ.get(SPARE_VARIABLE, "1") in ("0", "no", "false", "off"):
        return False
    memory = psutil.virtual_memory()
    limit, used = _container_memory()
    return min(memory.total, limit) >= TOTAL_BYTES and min(memory.available, limit - used) >= FREE_BYTES


def _container_memory() -> tuple[float, float]:
    """The limit of this process's container, and how much of it is used, in bytes; infinity if there is none."""
    for folder, limit, used in (
        ("/sys/fs/cgroup", "memory.max", "memory.current"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        try:
            text = Path(folder, limit).read_text().strip()
            if text != "max":
                return float(text), float(Path(folder, used).read_text())
        except (OSError, ValueError):
            continue  # no such container
    return float("inf"), 0.0


def _circumstances(environment: Mapping[str, str]) -> Any:
    """All that a fresh interpreter would take from here; None if that is nowhere."""
    try:
        folder = os.getcwd()
    except FileNotFoundError:
        return None
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    policy = os.sched_getscheduler(0) if hasattr(os, "sched_getscheduler") else None
    rights = (os.geteuid(), os.getegid(), os.getgroups(), _umask(), _resource_limits())
    niceness = os.getpriority(os.PRIO_PROCESS, 0)
    return dict(environment), folder, sys.executable, list(sys.path), cores, policy, rights, niceness


def _resource_limits() -> dict[str, tuple[int, int]]:
    import resource  # not on Windows, where there are no process jobs

    names = [name for name in dir(resource) if name.startswith("RLIMIT_")]
    limits = {}
    for name in names:
        with contextlib.suppress(ValueError, OSError):  # this system does not have it
            limits[name] = resource.getrlimit(getattr(resource, name))
    return limits


def _umask() -> int:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        # It can only be asked by setting it: a file that another thread makes now is this user's alone.
        umask = os.umask(0o077)
        os.umask(umask)
        return umask
    return int(next(line for line in status.splitlines() if line.startswith("Umask:")).split()[1], 8)


def _answers(supervisor: Supervisor) -> bool:
    """Ask it: what is sent to a process that has just died, or stands still, would be a job that never runs."""
    try:
        supervisor.connection.settimeout(_ANSWER_S)
        supervisor.connection.sendall(b"?")
        answered = supervisor.connection.recv(1) == b"!"
        supervisor.connection.settimeout(None)
    except OSError:
        return False
    return answered


def discard() -> None:
    """Do without a spare from now on; its processes end by themselves."""
    global _spare
    with _guard:
        spare, _spare = _spare, None
    if spare is not None:
        _end(spare.supervisor)


def answer(connection: socket.socket) -> bool:
    """Be there for :func:`take`, in a spare; return False if nobody asks any more."""
    try:
        if not connection.recv(1):
            return False
        connection.sendall(b"!")
    except OSError:
        return False
    return True


def _end(supervisor: Supervisor) -> None:
    supervisor.connection.close()
    # It sees that, kills its worker and exits; it is reaped beside, for that takes a moment.
    threading.Thread(target=supervisor.process.wait, name="trainkit-reap-spare", daemon=True).start()


@atexit.register
def _end_with_the_interpreter() -> None:
    _no_longer_idle()
    discard()


def _forget_in_forked_child() -> None:
    """A forked child must not keep the connection: the spare would outlive its notebook."""
    global _spare
    if _spare is not None:
        _spare.supervisor.connection.close()
        _spare = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_forked_child)
