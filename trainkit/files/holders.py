"""Which process holds a file's lock, as far as the system tells: for people who have to look after it."""

from __future__ import annotations

import contextlib
import os
import shlex
from pathlib import Path

import psutil

#: How much of a command line is told.
_COMMAND = 80


def who_holds(path: Path) -> str:
    """Describe the process that holds the ``flock`` of a file, with what to do if it is stopped.

    Returns:
        A clause of a sentence; ``"another process"`` where the system does not tell, or nobody holds it any more.
    """
    for pid in _candidates(path):
        with contextlib.suppress(psutil.Error, OSError):
            found = psutil.Process(pid)
            if not has_open(pid, path):
                continue
            command = shlex.join(found.cmdline())[:_COMMAND]
            told = f"process {pid} ({command or found.name()})"
            if found.status() == psutil.STATUS_STOPPED:
                told += f", which is stopped; `kill -CONT {pid}` lets it go on"
            return told
    return "another process"


def _candidates(path: Path) -> list[int]:
    """The processes that hold the ``flock`` of a file of this number, on whatever disk."""
    try:
        inode = os.stat(path).st_ino
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:  # no Linux, or the file is gone
        return []
    # "7: FLOCK  ADVISORY  WRITE 1234 fe:00:16040759 0 EOF"; who waits for it has "->" behind the number.
    fields = [line.split() for line in lines]
    return [int(each[4]) for each in fields if each[1] == "FLOCK" and each[5].rpartition(":")[2] == str(inode)]


def has_open(pid: int, path: Path) -> bool | None:
    """Whether a process has a file open, also one that was removed since.

    Returns:
        None if this user may not look at what the process has open.

    Raises:
        psutil.NoSuchProcess: it has ended.
    """
    if not Path("/proc/self/fd").exists():  # pragma: no cover - macOS and Windows
        return _names(pid, path)
    try:
        wanted = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        wanted = None
    removed = f"{os.path.realpath(path)} (deleted)"
    try:
        handles = [f"/proc/{pid}/fd/{name}" for name in os.listdir(f"/proc/{pid}/fd")]
        for handle in handles:
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                if wanted is None:
                    if os.readlink(handle) == removed:
                        return True
                elif os.path.samestat(os.stat(handle), wanted):
                    return True
    except (FileNotFoundError, ProcessLookupError):
        raise psutil.NoSuchProcess(pid) from None
    except PermissionError:
        return None
    return False


def _names(pid: int, path: Path) -> bool | None:
    try:
        return any(file.path == os.path.realpath(path) for file in psutil.Process(pid).open_files())
    except psutil.AccessDenied:
        return None
