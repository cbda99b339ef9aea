"""How many files this process may still open: what waits keeps some open, and what runs needs others."""

from __future__ import annotations

import contextlib
import os
import sys

from trainkit.errors import RunnerError

#: What the jobs that run, and the notebook, may need in addition; a quarter where little is allowed.
_SPARE = 128
#: What the start of one job needs.
_START = 16


def check_open_files(*, spare: bool = True) -> None:
    """Return if there is room for another job.

    Args:
        spare: whether some room is to be left for the jobs that run.

    Raises:
        RunnerError: too few files can be opened.
    """
    count = _counts()
    if count is None:
        return
    used, limit = count
    if used + min(_SPARE if spare else _START, limit // 4) > limit:
        raise RunnerError(
            f"this process has {used:,} files open and may have {limit:,}, which leaves too few for another job; "
            "each thread job that waits needs two. Wait until some jobs have ended, stop some, or allow more with "
            "`ulimit -n` before Python starts"
        )


def _counts() -> tuple[int, int] | None:
    """Return how many files are open, and how many may be; None where the system does not say so."""
    if sys.platform == "win32":
        return None
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    with contextlib.suppress(FileNotFoundError, PermissionError):
        try:
            return len(os.listdir("/dev/fd")), limit
        except OSError:  # even this needs one
            return limit, limit
    return None
