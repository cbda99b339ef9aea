"""Every error that trainkit raises, in one tree under :class:`TrainkitError`.

A message says what came, what is allowed and what to do next.  Where a built-in exception means the
same thing (a missing file, a wrong value), the class derives from that one too, so that
``except ValueError`` keeps working.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class TrainkitError(Exception):
    """The root of all trainkit errors."""


class JobIdError(TrainkitError, ValueError):
    """A job id that could not be a file name of ours."""


class UnknownJobError(TrainkitError, LookupError):
    """No job of that id under this root."""


class JobExistsError(TrainkitError, FileExistsError):
    """A job of that id is there already."""


class RecordError(TrainkitError, ValueError):
    """A job record that cannot be read."""


class StateError(TrainkitError, RuntimeError):
    """A change of state that the table of states does not allow."""


class OptionError(TrainkitError, ValueError):
    """An option or argument that is unknown or out of its range."""


class TaskError(TrainkitError, TypeError):
    """A function or argument that cannot travel to another process."""


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
    """An optional dependency is not installed."""


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
