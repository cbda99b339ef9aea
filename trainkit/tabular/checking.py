"""Whether a file can be trained on, found out before a job exists: here, or in a process of its own.

A few kilobytes can unpack to gigabytes, and a wide table takes long to look at.  A server therefore has it done by
``python -m trainkit.tabular.checking``, whose memory and time are bounded, and which is gone afterwards.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from trainkit.errors import OptionError, TableError
from trainkit.tabular.filetypes import DELIMITED, GZIP, kind_of_file
from trainkit.tabular.options import check_options

#: Up to this size, unpacked, a table is read and checked before its job exists; it takes about half a second.
CHECKED_BEFORE_BYTES = 50_000_000
#: What a server checks itself: that small, and of a first line that names no more than some hundred columns.
SMALL_BYTES, SHORT_LINE_BYTES = 1_000_000, 5_000
CHILD_MEMORY_BYTES = 8 * 2**30
CHILD_TIMEOUT_S = 120.0


class Checked(msgspec.Struct):
    """A table that can be trained on.

    Attributes:
        params: every option, with what was chosen from the data; empty if the job has to check the table itself.
        summary: what training will do, in one line.
    """

    params: dict[str, Any] = {}
    summary: str = ""


class _Problem(msgspec.Struct):
    """Why it cannot be trained on."""

    option: bool
    message: str
    line: int | None = None
    column: str | int | None = None


class _Answer(msgspec.Struct):
    checked: Checked | None = None
    problem: _Problem | None = None


def check_file(path: Path, options: Mapping[str, Any]) -> Checked:
    """Check a file and the device in this process; what is too large is left to the job.

    Raises:
        TableError: the table cannot be read or learnt from.
        OptionError: an option is wrong, or the device is not on this machine.
    """
    checked = check_options(options)
    if checked.device is not None:
        from trainkit.training.devices import check_device

        check_device(checked.device)
    from trainkit.tabular.plan import check_table
    from trainkit.tabular.read import unpacked_bytes
    from trainkit.tabular.sources import open_table

    if unpacked_bytes(path, CHECKED_BEFORE_BYTES) > CHECKED_BEFORE_BYTES:
        return Checked()
    frame, _ = open_table(path, checked)
    plan = check_table(frame, checked, path=path)
    return Checked(plan.params, plan.summary)


def check_file_apart(path: Path, options: Mapping[str, Any]) -> Checked:
    """Do what :func:`check_file` does, in a process of its own unless that costs nothing here.

    Raises:
        TableError: the table cannot be read or learnt from.
        OptionError: an option is wrong, or the device is not on this machine.
    """
    check_options(options)
    if options.get("device") in (None, "cpu") and _is_small(path):
        return check_file(path, options)
    try:
        child = subprocess.run(
            [sys.executable, "-m", "trainkit.tabular.checking", os.fspath(path)],
            input=msgspec.json.encode(dict(options)),
            capture_output=True,
            timeout=CHILD_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Checked()  # the job finds out
    try:
        answer = msgspec.json.decode(child.stdout, type=_Answer)
    except msgspec.DecodeError:
        reason = child.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        how = f"the process that checked it ended with exit code {child.returncode}: {reason}".rstrip(": ")
        raise TableError(f"{path} could not be checked; {how}", path=path) from None
    if (problem := answer.problem) is not None:
        if problem.option:
            raise OptionError(problem.message)
        raise TableError(problem.message, path=path, line=problem.line, column=problem.column)
    return answer.checked or Checked()


def _is_small(path: Path) -> bool:
    """Whether a file is CSV of so few bytes and columns that reading it takes some milliseconds."""
    if kind_of_file(path) not in DELIMITED:
        return False
    try:
        with path.open("rb") as opened:
            head = opened.read(SHORT_LINE_BYTES)
            size = os.fstat(opened.fileno()).st_size
    except OSError:
        return True  # the reader says what is wrong
    return size <= SMALL_BYTES and not head.startswith(GZIP) and (len(head) == size or b"\n" in head)


def _limit_memory() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (CHILD_MEMORY_BYTES, CHILD_MEMORY_BYTES))


def main(arguments: list[str]) -> None:
    """Check the file that is named, with the options that come as JSON on the standard input."""
    (name,) = arguments
    options = msgspec.json.decode(sys.stdin.buffer.read(), type=dict[str, Any])
    _limit_memory()
    try:
        answer = _Answer(checked=check_file(Path(name), options))
    except TableError as error:
        answer = _Answer(problem=_Problem(False, str(error), error.line, error.column))
    except OptionError as error:
        answer = _Answer(problem=_Problem(True, str(error)))
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "thread" not in str(error):  # a thread takes memory to start
            raise
        limit = f"more than {CHILD_MEMORY_BYTES // 2**30} GiB of memory"
        message = f"{name} takes {limit} to check; start the job from Python, or write a smaller file"
        answer = _Answer(problem=_Problem(False, message))
    sys.stdout.buffer.write(msgspec.json.encode(answer))


if __name__ == "__main__":
    main(sys.argv[1:])
