"""How an attempt of a job ended: put together here, whoever tells it, and brought into the record here.

The worker tells it, or the queue, the supervisor of a worker that could not, the thread whose recorder could
not, or a reader who finds that nobody runs the job any more.
"""

from __future__ import annotations

import signal
import traceback
from dataclasses import dataclass

from trainkit.errors import text_of
from trainkit.files.record import EndedBy, ErrorInfo, Record, Status, check_change


@dataclass(frozen=True)
class Ending:
    """A terminal state and its reason.

    Attributes:
        status: COMPLETED, STOPPED, FAILED or INTERRUPTED.
        ended_by: why.
        message: the line that people read first.
        error: what went wrong, if something did.
    """

    status: Status
    ended_by: EndedBy
    message: str = ""
    error: ErrorInfo | None = None


#: How many characters of an exception's text are kept: a record is read all the time.
_TEXT, _LINE = 50_000, 1_000
#: What a reader says when nobody runs a job that has not ended.
LOST = Ending(Status.INTERRUPTED, EndedBy.LOST, "its process vanished")


def put(record: Record, ending: Ending, *, now: float | None = None) -> None:
    """Bring an ending into a record.

    Args:
        record: changed in place; it stays as it is if that ending was put already.
        ending: what to put.
        now: Unix seconds; None when a reader derives it, who does not know when it was.

    Raises:
        StateError: the record tells of another ending already.
    """
    if record.status is not ending.status:
        check_change(record.status, ending.status)
    elif record.finished_at is not None:
        return
    record.status, record.ended_by, record.message = ending.status, ending.ended_by, ending.message
    record.error = ending.error
    record.phase = None
    if now is not None:
        record.finished_at = record.updated_at = record.heartbeat_at = now
    if ending.status is Status.COMPLETED:
        record.progress = 100.0


def reached(
    ended_by: EndedBy, message: str, *, stopped: bool, finishing: bool, usable: bool, saved: bool, limit: str
) -> Ending:
    """Return the ending of a function that raised nothing.

    Args:
        ended_by: what was asked for, if something was.
        message: what the job last said of itself.
        stopped: whether it was cut, rather than came to its own end.
        finishing: whether it was asked to end its loops and complete.
        usable: whether there is a model.
        saved: whether there is a checkpoint to go on from.
        limit: the time limit that it has reached, in words; empty if it has not.

    >>> reached(EndedBy.USER, "", stopped=True, finishing=False, usable=True, saved=True, limit="").message
    'stopped on request; model saved'
    """
    asked = ended_by in (EndedBy.USER, EndedBy.LOST) or bool(limit)
    if stopped and ended_by is EndedBy.LOST:
        kept = "; what it had is saved" if saved else ""
        return Ending(Status.INTERRUPTED, ended_by, f"the interpreter that ran it was shut down{kept}")
    if stopped and not (finishing and usable):
        cut = (f"stopped by {limit}" if limit else "stopped on request") if asked else message
        return Ending(Status.STOPPED, ended_by, cut + ("; model saved" if usable else ""))
    if not asked:
        return Ending(Status.COMPLETED, ended_by, message)
    if finishing:
        return Ending(Status.COMPLETED, ended_by, f"finished by {limit}" if limit else "finished early on request")
    late = f"ran to its end when {limit} was reached" if limit else "ran to its end before the request took effect"
    return Ending(Status.COMPLETED, EndedBy.EPOCHS, late)


def failed(error: BaseException, *, doing: str = "", hide: str | None = None) -> Ending:
    """Return the ending of a job that an exception ended.

    Args:
        error: the exception.
        doing: what could not be done, if it was nothing of the training code.
        hide: a file of ours whose frames at the top of the traceback say nothing to the user.
    """
    info = error_info(error, hide=hide)
    first_line = shortened((info.message.splitlines() or [""])[0], _LINE)
    told = f"{doing}: {first_line}" if doing else f"{info.type}: {first_line}"
    if isinstance(error, SystemExit):
        told = f"the function called sys.exit({'' if error.code is None else shortened(repr(error.code), _LINE)})"
    return Ending(Status.FAILED, EndedBy.EXCEPTION, told.rstrip(": "), info)


def interrupted(error: KeyboardInterrupt, *, hide: str | None = None) -> Ending:
    """Return the ending of a job that SIGINT ended."""
    return Ending(Status.INTERRUPTED, EndedBy.SIGNAL, "interrupted", error_info(error, hide=hide))


def cause_of_death(code: int) -> Ending:
    """Return the ending of a process that could not tell it.

    Args:
        code: its exit code, or the negative number of the signal that ended it.
    """
    if code >= 0:
        message = f"its process ended with exit code {code} and without a word"
        return Ending(Status.INTERRUPTED, EndedBy.LOST, message, ErrorInfo("ProcessExit", message))
    try:
        name = signal.Signals(-code).name
    except ValueError:  # a real-time signal has no name
        name = f"signal {-code}"
    message = f"its process was ended by {name}"
    if name == "SIGKILL":
        message += "; if nobody killed it, the system may have run out of memory"
    return Ending(Status.INTERRUPTED, EndedBy.SIGNAL, message, ErrorInfo(name, message))


def error_info(error: BaseException, *, hide: str | None = None) -> ErrorInfo:
    """Describe an exception, with the traceback from the user's code on."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == hide:
        trace = trace.tb_next
    lines = traceback.format_exception(type(error), error, trace)
    return ErrorInfo(type(error).__name__, shortened(text_of(error), _TEXT), shortened("".join(lines), _TEXT))


def shortened(text: str, limit: int) -> str:
    """Return a text, without its middle if it is longer than so many characters.

    >>> shortened("abcdefghij", 4)
    'ab… (6 characters left out) …ij'
    """
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}… ({len(text) - 2 * half:,} characters left out) …{text[-half:]}"
