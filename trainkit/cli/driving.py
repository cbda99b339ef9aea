"""The words that ask something of a job, or take it away: stop, finish, pause, resume, kill, set, delete."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from trainkit.cli.exits import Exit, echo, echo_json
from trainkit.cli.group import again, answers, complete_id, job_id_argument

if TYPE_CHECKING:
    from trainkit.api.job import Job


def _drive(
    job_id: str | None,
    root: str | None,
    as_json: bool,
    action: str,
    ask: Callable[[Job], object],
    *,
    needs_running: bool = False,
    told: str = "",
) -> int:
    """Ask something of a job and tell what came of it.

    Args:
        job_id, root: which job.
        as_json: answer with the record.
        action: its word.
        ask: asks it.
        needs_running: for a job that has ended it would be an empty promise.
        told: what to say when it was asked; without it, what the job says.
    """
    from trainkit.api.listing import attach
    from trainkit.errors import StateError

    job = attach(job_id, root=root)
    had_ended = job.done()
    ask(job)
    record = job.record
    if record.status.terminal and needs_running:
        raise StateError(f"job {job.name!r} has ended ({record.status}): there is nothing to {action}")
    if as_json:
        echo_json(job.status())
        return Exit.OK
    if had_ended and record.status.terminal:
        told = "it had already ended"
    elif had_ended:
        told = f"attempt {record.attempt} is on its way; trainkit watch {job.id} shows it"
    else:
        told = told or record.message or f"asked to {action}"
    echo(f"{job.name}: {record.status}, {told}")
    return Exit.OK


@click.command()
@job_id_argument
@answers
def stop(job_id: str | None, root: str | None, as_json: bool) -> int:
    """Save and end a job after its current step."""
    return _drive(job_id, root, as_json, "stop", lambda job: job.stop())


@click.command()
@job_id_argument
@answers
def finish(job_id: str | None, root: str | None, as_json: bool) -> int:
    """End a job early: validate, export, complete."""
    return _drive(job_id, root, as_json, "finish", lambda job: job.finish())


@click.command()
@job_id_argument
@answers
def pause(job_id: str | None, root: str | None, as_json: bool) -> int:
    """Let a job wait after its current step."""
    return _drive(job_id, root, as_json, "pause", lambda job: job.pause(), needs_running=True)


@click.command()
@job_id_argument
@click.option("--lost", is_flag=True, help="its machine is gone, which nobody can tell from here")
@again
@answers
def resume(
    job_id: str | None, root: str | None, as_json: bool, lost: bool, address: str | None, trust: bool
) -> int:
    """Let a job go on from where it was.

    A paused job goes on at once.  One that was stopped, failed or interrupted starts a new attempt from its
    last checkpoint, on its cluster or in a process of its own.
    """
    from trainkit.runners import outliving

    def go_on(job: Job) -> None:
        # A thread of this command would end with it.
        runner = outliving(job.store.read(job.id).runner) if lost or job.done() else None
        job.resume(runner=runner, lost=lost, address=address, trust=trust)

    return _drive(job_id, root, as_json, "resume", go_on)


@click.command()
@job_id_argument
@answers
def kill(job_id: str | None, root: str | None, as_json: bool) -> int:
    """End a job's process at once; what was not saved is lost."""
    return _drive(job_id, root, as_json, "kill", lambda job: job.kill())


@click.command(name="set")
@click.argument("words", metavar="[ID] KEY=VALUE...", nargs=-1, required=True)
@answers
def set_(words: tuple[str, ...], root: str | None, as_json: bool) -> int:
    """Change parameters of a running job from its next step on.

    lr and weight_decay reach the tracked optimizers by themselves.
    """
    from trainkit.cli.functions import parse_values

    job_id, rest = (None, words) if "=" in words[0] else (words[0], words[1:])
    if not rest:
        raise click.UsageError("expected KEY=VALUE, such as lr=0.0001")
    values = parse_values(rest)
    told = f"{', '.join(f'{name} {value}' for name, value in values.items())} from its next step on"
    return _drive(job_id, root, as_json, "set", lambda job: job.set(**values), needs_running=True, told=told)


@click.command()
@click.argument("job_id", metavar="ID", shell_complete=complete_id)
@answers
def delete(job_id: str, root: str | None, as_json: bool) -> int:
    """Remove all files of a job that has ended, its model too.

    Which one has to be said: without an ID nothing is removed.
    """
    from trainkit.api.listing import attach

    job = attach(job_id, root=root)
    name = job.name
    job.delete()
    if as_json:
        echo_json({"ok": True, "job_id": job.id, "message": "deleted"})
    else:
        echo(f"{name}: deleted {job.id}")
    return Exit.OK
