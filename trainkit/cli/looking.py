"""The words that look at jobs: jobs, status, watch, logs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from trainkit.clean_text import clean_lines
from trainkit.cli.exits import Exit, echo, echo_json
from trainkit.cli.group import answers, job_id_argument
from trainkit.files.log_tail import LogReader

if TYPE_CHECKING:
    from trainkit.api.job import Job

_STATES = ("QUEUED", "RUNNING", "PAUSED", "STOPPING", "COMPLETED", "STOPPED", "FAILED", "INTERRUPTED")
_FOLLOW_S = 0.1


@click.command()
@click.option("--state", type=click.Choice(_STATES, case_sensitive=False), help="Only jobs in this state.")
@answers
def jobs(state: str | None, root: str | None, as_json: bool) -> int:
    """List the jobs, newest first."""
    from trainkit.api import listing, view
    from trainkit.files.store import Store

    store = Store(root)
    records, unreadable = listing.records_of(store, None if state is None else listing.as_status(state))
    if as_json:
        from trainkit.files.record import to_dict

        damaged = [
            {"job_id": job_id, "status": "UNREADABLE", "message": reason} for job_id, reason in unreadable.items()
        ]
        echo_json({"jobs": [*map(to_dict, records), *damaged]})
        return Exit.OK
    from trainkit.cli.screens import show_jobs

    rows: list[Any] = [(record.status, {"id": record.job_id, **view.row(record)}) for record in records]
    for job_id in unreadable:
        cells = dict.fromkeys(["id", "name", "state", "done", "at", "best", "runner"], "")
        rows.append((None, cells | {"id": job_id, "state": "UNREADABLE"}))
    if rows:
        show_jobs(rows)
    else:
        echo(f"no {f'{state} ' if state else ''}jobs under {store.root}")
    for reason in unreadable.values():
        echo(f"trainkit: unreadable: {reason}", err=True)
    return Exit.OK


@click.command()
@job_id_argument
@answers
def status(job_id: str | None, root: str | None, as_json: bool) -> int:
    """Show how a job is."""
    from trainkit.api.listing import attach

    job = attach(job_id, root=root)
    if as_json:
        echo_json(job.status())
        return Exit.OK
    from trainkit.cli.screens import summary, terminal

    terminal().print(summary(job.record, job.store, warnings=job.warnings()), soft_wrap=True)
    return Exit.OK


@click.command()
@job_id_argument
@answers
def watch(job_id: str | None, root: str | None, as_json: bool) -> int:
    """Watch a job until it ends.

    The exit code tells how it ended.  Ctrl-C ends the watching; the job goes on.
    """
    from trainkit.api.listing import attach
    from trainkit.cli.screens import screen_for
    from trainkit.cli.watching import look_on

    job = attach(job_id, root=root)
    return look_on(job, screen_for(job.store, as_json=as_json))


@click.command()
@job_id_argument
@click.option("--follow", "-f", is_flag=True, help="Go on until the job has ended.")
@click.option("--tail", "-n", type=click.IntRange(min=0), help="Begin with that many last lines.")
@answers
def logs(job_id: str | None, follow: bool, tail: int | None, root: str | None, as_json: bool) -> int:
    """Show what the training code printed."""
    from trainkit.api.listing import attach
    from trainkit.errors import TrainkitError

    job = attach(job_id, root=root)
    if not job.paths.output.exists():
        raise TrainkitError(f"job {job.id!r} has no {job.paths.output.name}: it was not started by this trainkit")
    if as_json and not follow:
        echo_json({"job_id": job.id, "logs": job.logs(tail)})
        return Exit.OK
    if not follow:
        _show_settled(job.logs(tail), "")
        return Exit.OK
    show: Callable[[str, str], None] = partial(_show_json, job.id) if as_json else _show_settled
    if not as_json and sys.stdout.isatty():
        from trainkit.cli.screens import LiveRows, redraws, terminal

        if redraws(terminal()):
            show = LiveRows().show
    for text, rest in _appended(job, tail):
        show(text, rest)
    return Exit.OK


def _show_settled(text: str, _rest: str) -> None:
    # What a job prints has no control sequences here; in a terminal, directional characters are left out too.
    click.echo(clean_lines(text) if sys.stdout.isatty() else text, nl=False)


def _show_json(job_id: str, text: str, _rest: str) -> None:
    for line in text.removesuffix("\n").split("\n") if text else []:
        echo_json({"job_id": job_id, "line": line})


def _appended(job: Job, tail: int | None) -> Iterator[tuple[str, str]]:
    """Yield the lines that a job prints until it has ended, beginning with its last lines, or all.

    Each time it yields the lines that will not change any more, and what follows them now: an unfinished line,
    a progress bar.
    """
    with LogReader(job.paths.output, tail) as reader:
        while True:
            ended = job.done()  # asked before reading: what is printed last is then never missed
            yield from reader.read()
            if ended:
                yield reader.finish(), ""
                return
            time.sleep(_FOLLOW_S)
