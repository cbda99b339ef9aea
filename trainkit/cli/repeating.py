"""The words that make new jobs of old ones: checkpoints, replay, branch."""

from __future__ import annotations

import click

from trainkit.cli.exits import Exit, echo_json
from trainkit.cli.group import answers, complete_id, job_id_argument, repeats
from trainkit.cli.starting import start


@click.command()
@job_id_argument
@answers
def checkpoints(job_id: str | None, root: str | None, as_json: bool) -> int:
    """List the checkpoints that a job can be branched from."""
    from msgspec import to_builtins

    from trainkit.listing import attach

    job = attach(job_id, root=root)
    found = job.checkpoints()
    if as_json:
        echo_json({"job_id": job.id, "checkpoints": to_builtins(found)})
        return Exit.OK
    if not found:
        click.echo(f"{job.name}: no checkpoints; run.track(model=..., optimizer=...) in the function makes them")
    for info in found:
        why = f"  {info.reason}" if info.reason else ""
        click.echo(f"step {info.step}  epoch {info.epoch}  {(info.size_bytes or 0) / 1e6:.1f} MB{why}")
    return Exit.OK


@click.command()
@click.argument("old", metavar="[ID]", required=False, shell_complete=complete_id)
@repeats
@answers
def replay(
    old: str | None,
    runner: str,
    detach: bool,
    name: str | None,
    job_id: str | None,
    root: str | None,
    as_json: bool,
) -> int:
    """Run a job that is over once more, with every live change at its step, and watch it."""
    from trainkit.listing import attach

    job = attach(old, root=root)
    return start(
        lambda: job.replay(runner=runner, name=name, job_id=job_id),
        runner=runner,
        detach=detach,
        as_json=as_json,
        then='tk.attach("{id}").model()',
    )


@click.command()
@click.argument("words", metavar="[ID] [KEY=VALUE]...", nargs=-1)
@click.option("--step", type=int, help="Of which checkpoint; without it the newest. See trainkit checkpoints.")
@repeats
@answers
def branch(
    words: tuple[str, ...],
    step: int | None,
    runner: str,
    detach: bool,
    name: str | None,
    job_id: str | None,
    root: str | None,
    as_json: bool,
) -> int:
    """Go on from a checkpoint of a job in a new job, with other parameters, and watch it.

    \b
    trainkit branch fit --step 400 lr=0.0001
    """
    from trainkit.cli.functions import parse_values
    from trainkit.listing import attach

    old, rest = (words[0], words[1:]) if words and "=" not in words[0] else (None, words)
    params = parse_values(rest)
    if own := sorted({"step", "runner", "name", "job_id"} & params.keys()):
        raise click.UsageError(f"{own[0]}= is trainkit's own; use --{own[0].replace('_', '-')}")
    job = attach(old, root=root)
    return start(
        lambda: job.branch(step=step, runner=runner, name=name, job_id=job_id, **params),
        runner=runner,
        detach=detach,
        as_json=as_json,
        then='tk.attach("{id}").model()',
    )
