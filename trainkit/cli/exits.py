"""How a command ends: its exit code, and errors as one line or one JSON object."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any

import click

from trainkit.clean_text import clean_json, clean_lines
from trainkit.errors import TrainkitError


class Exit(IntEnum):
    """Exit codes that scripts can use; shown in ``trainkit --help``."""

    OK = 0
    FAILED = 1
    BAD_INPUT = 2
    STOPPED = 3
    INTERRUPTED = 4
    KILLED = 130


#: What a job's terminal state means for the command that watched it.
BY_STATUS = {
    "COMPLETED": Exit.OK,
    "FAILED": Exit.FAILED,
    "STOPPED": Exit.STOPPED,
    "INTERRUPTED": Exit.INTERRUPTED,
}
#: What a shell reports of a program whose reader went away: 128 + SIGPIPE.
_READER_GONE = 141


def echo(text: str, *, err: bool = False) -> None:
    """Print a line, whatever a job or a user put into it, without what a terminal would obey."""
    click.echo(clean_lines(text), err=err)


def echo_json(value: Mapping[str, Any]) -> None:
    """Print one strict JSON object on one line: a number that is not finite becomes a text, as in the files.

    Characters that a terminal would obey are escaped, which changes no value.
    """
    from trainkit.files.streams import encode_line

    click.echo(clean_json(encode_line(value).decode()), nl=False)


class Commands(click.Group):
    """A group whose commands return exit codes, are listed in their order, and fail in one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which they are defined."""
        return list(self.commands)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command line and exit with its code."""
        words = list(sys.argv[1:] if args is None else args)
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # a terminal without · and ✓ shows ? instead of failing
        try:
            code = super().main(
                words,
                "trainkit",
                complete_var,
                standalone_mode=False,
                windows_expand_args=windows_expand_args,
                **extra,
            )
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            code = Exit.BAD_INPUT
        except click.ClickException as error:
            code = _fail(error, words)
        except (TrainkitError, OSError) as error:
            code = _fail(error, words)
        except click.Abort:
            code = _fail(KeyboardInterrupt("interrupted"), words, Exit.KILLED)
        sys.exit(code)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; when the reader of the output went away, end as quietly as other programs do."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # Python flushes at exit, and would complain again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return _READER_GONE


def _fail(error: BaseException, words: Sequence[str], code: Exit = Exit.BAD_INPUT) -> Exit:
    if "--json" in words:
        echo_json({"ok": False, "error": {"type": type(error).__name__, "message": _message(error)}})
    else:
        echo(f"trainkit: {' '.join(_message(error).split())}", err=True)
    return code


def _message(error: BaseException) -> str:
    if isinstance(error, click.UsageError):
        where = error.ctx.command_path if error.ctx else "trainkit"
        return f"{error.format_message().rstrip('.')} (see {where} --help)"
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)
