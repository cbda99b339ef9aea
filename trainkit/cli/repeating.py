"""The words that make new jobs of old ones: checkpoints, replay, branch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from trainkit.cli.exits import Exit, echo, echo_json
from trainkit.cli.group import Start, answers, complete_id, job_id_argument, repeats
from trainkit.cli.starting import start

if TYPE_CHECKING:
    from trainkit.api.job import Job


@click.command()
@job_id_argument
@answers
def checkpoints(job_id: str | None, root: str | None, as_json: bool) -> int:
    """List the checkpoints that a job can be branched from."""
    from msgspec import to_builtins

    from trainkit.api.listing import attach

    job = attach(job_id, root=root)
    found = job.checkpoints()
    if as_json:
        echo_json({"job_id": job.id, "checkpoints": to_builtins(found)})
        return Exit.OK
    if not found:
        echo(f"{job.name}: no checkpoints; run.track(model=..., optimizer=...) in the function makes them")
    for info in found:
        why = f"  {info.reason}" if info.reason else ""
        echo(f"step {info.step}  epoch {info.epoch}  {(info.size_bytes or 0) / 1e6:.1f} MB{why}")
    return Exit.OK


@click.command()
@click.argument("old", metavar="[ID]", required=False, shell_complete=complete_id)
@repeats
def replay(old: str | None, how: Start, address: str | None, trust: bool) -> int:
    """Run a job that is over once more, with every live change at its step, and watch it."""
    from trainkit.api.listing import attach

    job = attach(old, root=how.root)
    return start(how, lambda: job.replay(runner=_runner(job, how), address=address, trust=trust, **how.options))


def _runner(job: Job, how: Start) -> str:
    from trainkit.runners import outliving

    return how.runner or outliving(job.store.read(job.id).runner)


@click.command()
@click.argument("words", metavar="[ID] [KEY=VALUE]...", nargs=-1)
@click.option("--step", type=int, help="Of which checkpoint; without it the newest. See trainkit checkpoints.")
@repeats
def branch(words: tuple[str, ...], step: int | None, how: Start, address: str | None, trust: bool) -> int:
    """Go on from a checkpoint of a job in a new job, with other parameters, and watch it.

    \b
    trainkit branch fit --step 400 lr=0.0001
    """
    from trainkit.api.listing import attach
    from trainkit.cli.functions import parse_values, refuse_options

    old, rest = (words[0], words[1:]) if words and "=" not in words[0] else (None, words)
    params = parse_values(rest)
    job = attach(old, root=how.root)
    refuse_options(params, job.record.params)
    where: dict[str, Any] = {"runner": _runner(job, how), "address": address, "trust": trust}
    return start(how, lambda: job.branch(params, step=step, **where, **how.options))


@click.command(name="verify-resume")
@click.argument("function", metavar="MODULE:FUNCTION")
@click.argument("words", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--steps", type=int, default=50, show_default=True, help="After how many steps to compare.")
@click.option("--kills", type=int, default=2, show_default=True, help="How often to kill, at random steps.")
@click.option("--kill-seed", type=int, default=0, help="Other steps for another seed.")
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
def verify_resume(
    function: str, words: tuple[str, ...], steps: int, kills: int, kill_seed: int, as_json: bool
) -> int:
    """Prove on your own loop that a killed job resumes exactly.

    Runs FUNCTION in one go, and again with kills, in processes of their own, and compares every tensor and every
    random stream.  Exit code 0: all equal; 1: something differs, and the first that does is named.

    \b
    trainkit verify-resume fit:train --steps 100 --kills 3 lr=0.001
    """
    from trainkit.api.arguments import names_of
    from trainkit.api.verifying import verify_resume
    from trainkit.cli.functions import find_function, parse_values, refuse_options

    found = find_function(function)
    values = parse_values(words)
    refuse_options(values, names_of(found))
    result = verify_resume(
        found,
        values,
        steps=steps,
        kills=kills,
        kill_seed=kill_seed,
        tell=lambda text: echo(text + " ...", err=True) if not as_json else None,
    )
    if as_json:
        echo_json(result.to_dict())
    else:
        echo(repr(result))
    return Exit.OK if result.equal else Exit.FAILED
