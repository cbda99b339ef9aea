"""Every error that trainkit raises, in one tree under :class:`TrainkitError`.

A message says what came, what is allowed and what to do next.  Where a built-in exception means the
same thing (a missing file, a wrong value), the class derives from that one too, so that
``except ValueError`` keeps working.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
from collections.abc import Iterable, Iterator
from pathlib import Path

from trainkit.clean_text import clean_lines

#: The name to install; on the package index, ``trainkit`` is an unrelated project.
DISTRIBUTION = "jupyter-trainkit"


class TrainkitError(Exception):
    """The root of all trainkit errors."""

    def __str__(self) -> str:
        # A message may quote a job, a file name or a table, and is printed in a terminal.
        return clean_lines(super().__str__())


class JobIdError(TrainkitError, ValueError):
    """A job id that could not be a file name of ours."""


class UnknownJobError(TrainkitError, LookupError):
    """No job of that id under this root."""


class JobExistsError(TrainkitError, FileExistsError):
    """A job of that id is there already."""


class RecordError(TrainkitError, ValueError):
    """A job record that cannot be read."""


class StoreError(TrainkitError, OSError):
    """Files of jobs that cannot be read, made or written: a full disk, a folder that is read-only, or gone."""

    @classmethod
    def about(cls, error: OSError, path: Path) -> StoreError:
        """Say of which path an error of the system is, and what can be done.

        >>> str(StoreError.about(OSError(errno.ENOSPC, "No space left on device"), Path("metrics.jsonl")))
        'metrics.jsonl: No space left on device; free some, or choose another place by root= or TRAINKIT_ROOT'
        """
        if isinstance(error, cls):
            return error  # it was told already, nearer to its cause
        advice = _ADVICE.get(error.errno or 0, "")
        told = cls(f"{path}: {error.strerror or error}{advice}")
        told.errno = error.errno
        return told


#: Errors of the system after which there is no room.
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
#: Those after which one would have to ask for more rights.
NO_RIGHT = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_ADVICE = {
    **dict.fromkeys(NO_ROOM, "; free some, or choose another place by root= or TRAINKIT_ROOT"),
    **dict.fromkeys(NO_RIGHT, "; choose a place where you may write by root= or TRAINKIT_ROOT"),
    errno.ENOENT: "; was it removed while it was in use?",
    errno.EEXIST: "; it is in the way of a folder of that name",
    errno.ENOTDIR: "; a file is in the way of a folder of that name",
}


@contextlib.contextmanager
def telling(path: Path) -> Iterator[None]:
    """Have an error of the system say which file it is about, and what can be done.

    Raises:
        StoreError: in place of any other ``OSError``.
    """
    try:
        yield
    except OSError as error:
        raise StoreError.about(error, path) from error


class LockedError(TrainkitError, TimeoutError):
    """Another process has held a lock for too long.

    Args:
        message: which lock, and who holds it.
        holder: who holds it, alone.
    """

    def __init__(self, message: str, *, holder: str = "another process") -> None:
        super().__init__(message)
        self.holder = holder


class StateError(TrainkitError, RuntimeError):
    """A change of state that the table of states does not allow."""


class OptionError(TrainkitError, ValueError):
    """An option or argument that is unknown or out of its range."""


class TaskError(TrainkitError, TypeError):
    """A function or argument that cannot travel to another process."""


class TrustError(TrainkitError, RuntimeError):
    """A pickle that this user's jobs did not write, or an address that this user did not name."""


class RunnerError(TrainkitError, RuntimeError):
    """A runner that cannot do what was asked on this machine."""


class CheckpointError(TrainkitError, RuntimeError):
    """A checkpoint that is missing, damaged or does not fit."""


class JobFailedError(TrainkitError, RuntimeError):
    """The training code raised an exception that could not be brought here; its text is in the message."""


class JobStoppedError(TrainkitError, RuntimeError):
    """The job ended on request, before it could return a result."""


class JobInterruptedError(TrainkitError, RuntimeError):
    """The job's process vanished or was ended by a signal."""


class MissingExtraError(TrainkitError, ImportError):
    """An optional dependency is not installed; :func:`missing_extra` makes it."""


def missing_extra(need: str, extra: str) -> MissingExtraError:
    """Return the error for an optional dependency that is not installed, with the command that installs it.

    Args:
        need: what needs which package.
        extra: the extra of this distribution that brings it.

    >>> print(missing_extra("job.plot() needs matplotlib", "notebook"))
    job.plot() needs matplotlib; install it with: pip install 'jupyter-trainkit[notebook]'
    """
    return MissingExtraError(f"{need}; install it with: pip install '{DISTRIBUTION}[{extra}]'")


class ModelFileError(TrainkitError, ValueError):
    """A model file that is damaged, malicious, or of another kind than was asked for."""


class TableError(TrainkitError, ValueError):
    """A table that cannot be read or used, with the place of the first fault.

    Args:
        message: what came, what was expected, what to do.
        path: the file, where there is one.
        line: the physical line in that file, counted from 1.
        column: the column's name, or its 1-based position where it has no name.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str | Path | None = None,
        line: int | None = None,
        column: str | int | None = None,
    ) -> None:
        super().__init__(message)
        self.path = Path(path) if path is not None else None
        self.line = line
        self.column = column


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest of the known names, or an empty string.

    >>> did_you_mean("specis", ["species", "island"])
    "; did you mean 'species'?"
    """
    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def text_of(error: BaseException) -> str:
    """Return the text of an exception, also of a class whose ``__str__`` raises."""
    try:
        return str.__str__(str(error))  # a plain text where str() gives an instance of a subclass
    except Exception as failure:  # noqa: BLE001 - a class of the user's, which may raise anything
        return f"(its text cannot be had: {type(failure).__name__})"
