"""Which HTTP status tells which error."""

from __future__ import annotations

import msgspec

from trainkit.errors import (
    NO_RIGHT,
    NO_ROOM,
    CheckpointError,
    JobExistsError,
    JobIdError,
    MissingExtraError,
    OptionError,
    RecordError,
    RunnerError,
    StateError,
    StoreError,
    TableError,
    TaskError,
    TrainkitError,
    TrustError,
    UnknownJobError,
)
from trainkit.server.messages import Problem


class RefusedError(Exception):
    """A request that is answered with an error.

    Args:
        status: the HTTP status.
        message: what came, what is allowed, what to do.
        type: a name for programs; without it that of the status.
        line: the line of a table, where that is the place of the fault.
        column: its column.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "",
        line: int | None = None,
        column: str | int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.problem = Problem(type=type or type_of(status), message=message, line=line, column=column)


_TYPES = {
    400: "BadRequest",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    413: "BodyTooLarge",
    422: "ValidationError",
    429: "TooManyJobs",
    503: "Busy",
    507: "DiskFull",
}


def type_of(status: int) -> str:
    """Return a name for an error that has none of its own.

    >>> type_of(404)
    'NotFound'
    """
    return _TYPES.get(status, "ServerError" if status >= 500 else "BadRequest")


_STATUS: dict[type[Exception], int] = {
    UnknownJobError: 404,
    JobExistsError: 409,
    RecordError: 409,
    StateError: 409,
    RunnerError: 409,
    CheckpointError: 409,
    MissingExtraError: 409,
    TableError: 422,
    TaskError: 422,
    TrustError: 403,
    TrainkitError: 503,  # the rest: a lock that somebody holds
    PermissionError: 403,
}
#: What the request said is wrong; in the address that is 400, in the JSON of a body 422.
_VALUE_ERRORS = (JobIdError, OptionError, msgspec.ValidationError)


def refused(error: Exception, *, in_body: bool) -> RefusedError | None:
    """Return what to answer to an error, or None if it is a fault of ours.

    Args:
        error: what was raised.
        in_body: whether what the request said came in its body, rather than in the address.
    """
    if isinstance(error, RefusedError):
        return error
    if isinstance(error, StoreError):
        status = 507 if error.errno in NO_ROOM else 403 if error.errno in NO_RIGHT else 503
        return RefusedError(status, str(error), type="DiskFull" if status == 507 else type(error).__name__)
    if isinstance(error, _VALUE_ERRORS):
        name = "ValidationError" if isinstance(error, msgspec.ValidationError) else type(error).__name__
        return RefusedError(422 if in_body else 400, str(error), type=name)
    for kind, status in _STATUS.items():
        if isinstance(error, kind):
            line, column = (error.line, error.column) if isinstance(error, TableError) else (None, None)
            return RefusedError(status, str(error), type=type(error).__name__, line=line, column=column)
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return RefusedError(507, f"no space left: {error.filename or 'the disk is full'}")
    return None
