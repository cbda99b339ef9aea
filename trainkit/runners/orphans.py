"""Processes and their parents: none is left when one of them is killed (Linux), and a forked child ends apart."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Iterator

# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Make processes that a child leaves behind children of this one, so that they can be found and ended."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent_pid: int | None = None) -> None:
    """Have the system kill this process when the one that started it ends, however it does.

    Args:
        parent_pid: who that is; if it is gone already, this process ends at once.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent_pid is not None and os.getppid() != parent_pid:
        os._exit(1)


@contextlib.contextmanager
def ending_forked_children() -> Iterator[None]:
    """End a forked child that leaves this block: what follows is for the process that entered it.

    A child of ``os.fork`` returns from the training function, or raises out of it, as its parent does, and would
    write the end of the job in the middle of it.  It ends as a child of ``multiprocessing`` does: without
    ``atexit``, which belongs to the parent, and with the exit code that Python would give it.
    """
    parent_pid = os.getpid()
    error: BaseException | None = None
    try:
        yield
    except BaseException as raised:
        error = raised
        raise
    finally:
        if os.getpid() != parent_pid:
            _end_child(error)


def _end_child(error: BaseException | None) -> None:
    code = 0
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if code and not isinstance(error.code, int):
            sys.stderr.write(f"{error.code}\n")
    elif isinstance(error, Exception):  # a request to stop ends it, too, and is not a failure
        code = 1
        traceback.print_exception(error)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # whatever they were replaced by
            stream.flush()
    os._exit(code & 0xFF)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(option, value, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), f"prctl({option})")
