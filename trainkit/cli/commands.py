"""The words of the command line.  What needs torch, pandas or rich is imported when a command runs."""

from __future__ import annotations

import codecs
import importlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

import trainkit
from trainkit.cli.exits import Commands, Exit, echo_json
from trainkit.errors import MissingExtraError
from trainkit.tabular.options import TrainOptions, describe_option

if TYPE_CHECKING:
    from trainkit.job import Job

Command = TypeVar("Command", bound=Callable[..., Any])

_STATES = ("QUEUED", "RUNNING", "PAUSED", "STOPPING", "COMPLETED", "STOPPED", "FAILED", "INTERRUPTED")
_FOLLOW_S = 0.1


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


def main() -> None:
    """Run the command line of this process."""
    cli.main()


# --- what commands share -------------------------------------------------------------------------


def _answers(command: Command) -> Command:
    """Give a command --json and --root."""
    command = click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")(command)
    root = click.Path(file_okay=False)
    return click.option("--root", type=root, help="Folder of the jobs, instead of the current one.")(command)


def _starts(command: Command) -> Command:
    """Give a command what starting a job takes."""
    for option in (
        click.option("--job-id", help="The job's id; without it one is made."),
        click.option("--name", help="What the job is called."),
        click.option("--detach", is_flag=True, help="Print the id and return, instead of watching."),
        click.option(
            "--runner",
            type=click.Choice(["process", "thread"]),
            default="process",
            show_default=True,
            help="In a process of its own, which outlives this command; or in a thread of it.",
        ),
    ):
        command = option(command)
    return command


def _complete_id(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from trainkit.store import Store

    return sorted(each for each in Store(ctx.params.get("root")).job_ids() if each.startswith(incomplete))


_id = click.argument("job_id", metavar="[ID]", required=False, shell_complete=_complete_id)


def _start(launch: Callable[[], Job], *, runner: str, detach: bool, as_json: bool, then: str) -> int:
    """Start a job and watch it.

    Args:
        launch: starts it.
        runner: for jobs that cannot be detached.
        detach: do not watch.
        as_json: print JSON.
        then: what to try with the model; ``{model}`` and ``{id}`` are filled in.
    """
    if detach and runner == "thread":
        raise click.UsageError("--detach needs --runner process: a thread ends with this command")
    if detach:
        job = launch()
        if as_json:
            echo_json(job.status())
        else:
            click.echo(job.id)
            click.echo(f"watch it with: trainkit watch {job.id}", err=True)
        return Exit.OK
    from trainkit.cli.screens import screen_for, shown_path
    from trainkit.cli.watching import Interrupts, watch

    with Interrupts() as interrupts:
        job = launch()
        code = watch(job, screen_for(job.store, as_json=as_json), interrupts)
    if not as_json and code in (Exit.OK, Exit.STOPPED) and job.paths.model.exists():
        click.echo(f"\nNext:  {then.format(id=job.id, model=shown_path(str(job.paths.model)))}")
    return code


# --- starting ------------------------------------------------------------------------------------


def _train_options(command: Command) -> Command:
    """Give a command one option for each option of table training, from their one definition."""
    for field in reversed(msgspec.structs.fields(TrainOptions)):
        about, kind = describe_option(field.name)
        facts = [kind.replace("a list", "several with commas between")]
        if field.default not in (None, ()):
            facts.append(f"default: {field.default}")
        shown = f"{about}  [{'; '.join(facts)}]"
        option = click.option(f"--{field.name.replace('_', '-')}", field.name, metavar="VALUE", help=shown)
        command = option(command)
    return command


@cli.command()
@click.argument("file", required=False, type=click.Path())
@_train_options
@_starts
@_answers
def train(
    file: str | None,
    runner: str,
    detach: bool,
    name: str | None,
    job_id: str | None,
    root: str | None,
    as_json: bool,
    **given: str | None,
) -> int:
    """Train on a table, and watch it.

    FILE is CSV, TSV, JSON Lines or Parquet, also with .gz; without it, made-up rows.  What is not told is
    chosen from the data.  Ctrl-C stops and saves; a second one kills.

    \b
    trainkit train penguins.csv --target species --epochs 20
    """
    from trainkit.tabular.options import check_options

    told = {name: value for name, value in given.items() if value is not None}
    checked = check_options(told, from_text=True)
    options = {name: getattr(checked, name) for name in told}

    def launch() -> Job:
        from trainkit.launching import train

        return train(file, runner=runner, name=name, job_id=job_id, root=root, **options)

    then = 'tk.load_model("{model}").predict(table)'
    return _start(launch, runner=runner, detach=detach, as_json=as_json, then=then)


@cli.command()
@click.argument("function", metavar="MODULE:FUNCTION")
@click.argument("parameters", metavar="[KEY=VALUE]...", nargs=-1)
@_starts
@_answers
def submit(
    function: str,
    parameters: tuple[str, ...],
    runner: str,
    detach: bool,
    name: str | None,
    job_id: str | None,
    root: str | None,
    as_json: bool,
) -> int:
    """Run a function of yours as a job, and watch it.

    MODULE is imported as Python does, also from the current folder; FUNCTION gets the run as its first
    argument, then the parameters.  A VALUE is read as JSON where it is JSON, else as text.
    Ctrl-C stops and saves; a second one kills.

    \b
    trainkit submit fit:train lr=0.001 hidden=[64,64]
    """
    from trainkit.cli.functions import find_function, parse_values

    values = parse_values(parameters)
    if own := sorted({"runner", "name", "job_id", "root"} & values.keys()):
        raise click.UsageError(f"{own[0]}= is trainkit's own; use --{own[0].replace('_', '-')}")
    found = find_function(function)

    def launch() -> Job:
        from trainkit.launching import submit

        return submit(found, runner=runner, name=name, job_id=job_id, root=root, **values)

    return _start(launch, runner=runner, detach=detach, as_json=as_json, then='tk.attach("{id}").model()')


# --- looking -------------------------------------------------------------------------------------


@cli.command()
@click.option("--state", type=click.Choice(_STATES, case_sensitive=False), help="Only jobs in this state.")
@_answers
def jobs(state: str | None, root: str | None, as_json: bool) -> int:
    """List the jobs, newest first."""
    from trainkit import listing, view
    from trainkit.store import Store

    store = Store(root)
    found = listing.jobs(state, root=store)
    records = [job.record for job in found]
    if as_json:
        from trainkit.record import to_dict

        damaged = [
            {"job_id": job_id, "status": "UNREADABLE", "message": reason}
            for job_id, reason in found.unreadable.items()
        ]
        echo_json({"jobs": [*map(to_dict, records), *damaged]})
        return Exit.OK
    from trainkit.cli.screens import show_jobs

    rows: list[Any] = [(record.status, {"id": record.job_id, **view.row(record)}) for record in records]
    for job_id in found.unreadable:
        cells = dict.fromkeys(["id", "name", "state", "done", "at", "best", "runner"], "")
        rows.append((None, cells | {"id": job_id, "state": "UNREADABLE"}))
    if rows:
        show_jobs(rows)
    else:
        click.echo(f"no {f'{state} ' if state else ''}jobs under {store.root}")
    for reason in found.unreadable.values():
        click.echo(f"trainkit: unreadable: {reason}", err=True)
    return Exit.OK


@cli.command()
@_id
@_answers
def status(job_id: str | None, root: str | None, as_json: bool) -> int:
    """Show how a job is."""
    from trainkit.listing import attach

    job = attach(job_id, root=root)
    if as_json:
        echo_json(job.status())
        return Exit.OK
    from trainkit.cli.screens import summary, terminal

    terminal().print(summary(job.record, job.store), soft_wrap=True)
    return Exit.OK


@cli.command()
@_id
@_answers
def watch(job_id: str | None, root: str | None, as_json: bool) -> int:
    """Watch a job until it ends.

    The exit code tells how it ended.  Ctrl-C ends the watching; the job goes on.
    """
    from trainkit.cli.screens import screen_for
    from trainkit.cli.watching import look_on
    from trainkit.listing import attach

    job = attach(job_id, root=root)
    return look_on(job, screen_for(job.store, as_json=as_json))


@cli.command()
@_id
@click.option("--follow", "-f", is_flag=True, help="Go on until the job has ended.")
@click.option("--tail", "-n", type=click.IntRange(min=0), help="Begin with that many last lines.")
@_answers
def logs(job_id: str | None, follow: bool, tail: int | None, root: str | None, as_json: bool) -> int:
    """Show what the training code printed."""
    from trainkit.errors import TrainkitError
    from trainkit.listing import attach

    job = attach(job_id, root=root)
    if not job.paths.output.exists():
        raise TrainkitError(f"job {job.id!r} has no {job.paths.output.name}: it was not started by this trainkit")
    if as_json and not follow:
        echo_json({"job_id": job.id, "logs": job.logs(tail)})
        return Exit.OK
    if not follow:
        click.echo(job.logs(tail), nl=False)
        return Exit.OK
    rest = ""
    for new in _appended(job, tail):
        if not as_json:
            click.echo(new, nl=False)
            continue
        *lines, rest = (rest + new).split("\n")
        for line in lines:
            echo_json({"job_id": job.id, "line": line})
    if rest:
        echo_json({"job_id": job.id, "line": rest})
    return Exit.OK


def _appended(job: Job, tail: int | None) -> Iterator[str]:
    """Yield what a job prints until it has ended, beginning with its last lines, or all."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    with open(job.paths.output, "rb") as file:
        while True:
            ended = job.done()  # asked before reading: what is printed last is then never missed
            new = decoder.decode(file.read(), final=ended)
            if tail is not None:
                new, tail = "".join(new.splitlines(keepends=True)[-tail:] if tail else []), None
            if new:
                yield new
            if ended:
                return
            time.sleep(_FOLLOW_S)


# --- driving -------------------------------------------------------------------------------------


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
    from trainkit.errors import StateError
    from trainkit.listing import attach

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
        told = "it had ended"
    elif had_ended:
        told = f"attempt {record.attempt} is on its way; trainkit watch {job.id} shows it"
    else:
        told = told or record.message or f"asked to {action}"
    click.echo(f"{job.name}: {record.status}, {told}")
    return Exit.OK


@cli.command()
@_id
@_answers
def stop(job_id: str | None, root: str | None, as_json: bool) -> int:
    """Save and end a job after its current step."""
    return _drive(job_id, root, as_json, "stop", lambda job: job.stop())


@cli.command()
@_id
@_answers
def finish(job_id: str | None, root: str | None, as_json: bool) -> int:
    """End a job early: validate, export, complete."""
    return _drive(job_id, root, as_json, "finish", lambda job: job.finish())


@cli.command()
@_id
@_answers
def pause(job_id: str | None, root: str | None, as_json: bool) -> int:
    """Let a job wait after its current step."""
    return _drive(job_id, root, as_json, "pause", lambda job: job.pause(), needs_running=True)


@cli.command()
@_id
@_answers
def resume(job_id: str | None, root: str | None, as_json: bool) -> int:
    """Let a job go on from where it was.

    A paused job goes on at once.  One that was stopped, failed or interrupted starts a new attempt from its
    last checkpoint, in a process of its own.
    """
    return _drive(
        job_id,
        root,
        as_json,
        "resume",
        # A thread of this command would end with it.
        lambda job: job.resume(runner="process") if job.done() else job.resume(),
    )


@cli.command()
@_id
@_answers
def kill(job_id: str | None, root: str | None, as_json: bool) -> int:
    """End a job's process at once; what was not saved is lost."""
    return _drive(job_id, root, as_json, "kill", lambda job: job.kill())


@cli.command(name="set")
@click.argument("words", metavar="[ID] KEY=VALUE...", nargs=-1, required=True)
@_answers
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


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=3001, show_default=True, help="Port; 0 for any that is free.")
@click.option("--token", help="Token; without it JUPYTER_TOKEN, or one that is made and printed.")
@click.option("--base-url", default="/", show_default=True, help="Path below which the routes are.")
@_answers
def serve(host: str, port: int, token: str | None, base_url: str, root: str | None, as_json: bool) -> int:
    """Serve the jobs by HTTP, until Ctrl-C; the jobs go on without the server.

    The same routes are in JupyterLab, once trainkit is installed beside it.
    """
    # By its name: no edge imports another, and Jupyter Server need not be installed.
    try:
        server = importlib.import_module("trainkit.server.app")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "trainkit":
            raise
        raise MissingExtraError(f"trainkit serve needs {error.name}: pip install 'trainkit[server]'") from None
    server.serve(host, port, root, token, base_url, announce_json=as_json)
    return Exit.OK
