"""The command itself, and what its words share.  What needs torch, pandas or rich is imported when one runs."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

import trainkit
from trainkit.cli.exits import Commands

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class Start:
    """How a job is to be started.

    Attributes:
        runner: where it runs; None if that was not told.
        root: folder of the jobs.
        detach: whether to return at once, instead of watching.
        as_json: whether to answer in JSON.
        options: what all that starts a job takes alike, in Python too.
    """

    runner: str | None
    root: str | None
    detach: bool
    as_json: bool
    options: dict[str, Any]


@click.group(
    cls=Commands,
    context_settings={
        "help_option_names": ["-h", "--help"],
        # --batch_size is --batch-size: options have the same names here as in Python.
        "token_normalize_func": lambda word: word.replace("_", "-"),
    },
    epilog="""\b
Exit codes:
    0  the job completed, or the command did what it was asked
    1  the training code raised
    2  bad input or usage
    3  the job was stopped on request
    4  the job was interrupted: its process vanished
  130  killed by a second Ctrl-C, or no longer watched

\b
An ID is a job's id or its name; without one, the newest job is meant.
Jobs live below --root, else TRAINKIT_ROOT, else the current folder.

\b
--json answers with one JSON object on one line, with the fields of the job
record; where a job is watched, with one line for each change, of which the
last is final.  Errors are {"ok": false, "error": {"type", "message"}}.

\b
Completion in bash (or zsh, fish):
  eval "$(_TRAINKIT_COMPLETE=bash_source trainkit)"
""",
)
@click.version_option(trainkit.__version__, prog_name="trainkit", message="%(prog)s %(version)s")
def cli() -> None:
    """Train PyTorch in the background, watch it, stop it: from any shell."""


def answers(command: Command) -> Command:
    """Give a command --json and --root."""
    command = click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")(command)
    root = click.Path(file_okay=False)
    return click.option("--root", type=root, help="Folder of the jobs, instead of the current one.")(command)


_NAMED = (
    click.option("--job-id", help="The job's id; without it one is made."),
    click.option("--name", help="What the job is called."),
    click.option("--detach", is_flag=True, help="Print the id and return, instead of watching."),
)


def again(command: Command) -> Command:
    """Give a command what running the function in a job's files takes."""
    command = click.option(
        "--trust", is_flag=True, help="Run the function in the job's folder although no job of yours wrote it."
    )(command)
    return click.option(
        "--address", metavar="URL", help="Of the Ray cluster's dashboard, instead of the one that the job had."
    )(command)


def repeats(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command what starting a job from another one takes; it gets that as ``how``."""
    runner = click.option(
        "--runner",
        type=click.Choice(["process", "thread", "ray"]),
        help="In a process of its own, which outlives this command; in a thread of it; or on a Ray cluster. "
        "Without it on the cluster that the job had, else in a process.",
    )
    return again(_starting(command, (*_NAMED, runner), ("name", "job_id")))


def starts(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command what starting a job takes; it gets that as ``how``."""
    options = (
        click.option(
            "--max-time",
            metavar="TIME",
            help="For how long it may run, such as 90s, 30min or 2h; then it finishes.",
        ),
        click.option("--address", metavar="URL", help="Of a Ray cluster's dashboard, or: local."),
        click.option("--retries", type=int, default=0, help="Restarts when a process or its machine is lost."),
        click.option("--gpus-per-rank", type=int, default=0, help="GPUs that each rank needs."),
        click.option("--ranks", type=int, default=1, help="How many processes train together."),
        click.option(
            "--runner",
            type=click.Choice(["process", "thread", "ray"]),
            help="In a process of its own, which outlives this command (the default); in a thread of it; or on a "
            "Ray cluster (the default with --address).",
        ),
    )
    names = ("name", "job_id", "max_time", "address", "retries", "gpus_per_rank", "ranks")
    return _starting(command, (*_NAMED, *options), names)


def _starting(
    command: Callable[..., int], options: tuple[Callable[[Any], Any], ...], names: tuple[str, ...]
) -> Callable[..., int]:
    @functools.wraps(command)
    def collecting(*, runner: str | None, root: str | None, detach: bool, as_json: bool, **given: Any) -> int:
        how = Start(runner, root, detach, as_json, {name: given.pop(name) for name in names})
        return command(how=how, **given)

    found: Callable[..., int] = collecting
    for option in options:
        found = option(found)
    return answers(found)


def complete_id(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the ids that begin so, for the shell's completion."""
    from trainkit.files.paths import JOB_ID_PATTERN
    from trainkit.files.store import Store

    ids = Store(ctx.params.get("root")).job_ids()
    return sorted(each for each in ids if each.startswith(incomplete) and re.fullmatch(JOB_ID_PATTERN, each))


job_id_argument = click.argument("job_id", metavar="[ID]", required=False, shell_complete=complete_id)
