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
            if not _has_open(pid, path):
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


def _has_open(pid: int, path: Path) -> bool:
    wanted = os.stat(path)
    for handle in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            if os.path.samestat(handle.stat(), wanted):
                return True
    return False
