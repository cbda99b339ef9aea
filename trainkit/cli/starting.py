"""The words that start a job and watch it: train, submit."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
import msgspec

from trainkit.cli.exits import Exit, echo, echo_json
from trainkit.cli.group import Command, Start, starts
from trainkit.files.modelfile import model_file
from trainkit.tabular.options import TrainOptions, describe_option

if TYPE_CHECKING:
    from trainkit.api.job import Job


def placed(how: Start) -> dict[str, Any]:
    """Return what was told of what ``tk.submit`` and ``tk.train`` take; an address alone means Ray."""
    runner = how.runner or ("process" if how.options["address"] is None else "ray")
    told = {name: value for name, value in how.options.items() if value is not None}
    return {"runner": runner, "root": how.root, **told}


def start(how: Start, launch: Callable[[], Job], *, then: str = 'tk.attach("{id}").model()') -> int:
    """Start a job and watch it.

    Args:
        how: whether to watch, and how to answer.
        launch: starts it.
        then: what to try with the model; ``{model}`` and ``{id}`` are filled in.
    """
    if how.detach and how.runner == "thread":
        raise click.UsageError("--detach needs --runner process: a thread ends with this command")
    if how.detach:
        job = launch()
        if how.as_json:
            echo_json(job.status())
        else:
            echo(job.id)
            echo(f"watch it with: trainkit watch {job.id}", err=True)
        return Exit.OK
    from trainkit.cli.screens import screen_for, shown_path
    from trainkit.cli.watching import Interrupts, watch

    with Interrupts() as interrupts:
        job = launch()
        code = watch(job, screen_for(job.store, as_json=how.as_json), interrupts)
    if not how.as_json and code in (Exit.OK, Exit.STOPPED) and (model := model_file(job.paths)):
        echo(f"\nNext:  {then.format(id=job.id, model=shown_path(str(model)))}")
    return code


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


@click.command()
@click.argument("file", required=False, type=click.Path())
@_train_options
@starts
def train(file: str | None, how: Start, **given: str | None) -> int:
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
        from trainkit.api.launching import train

        return train(file, **placed(how), **options)

    return start(how, launch, then='tk.load_model("{model}").predict(table)')


@click.command()
@click.argument("function", metavar="MODULE:FUNCTION")
@click.argument("parameters", metavar="[KEY=VALUE]...", nargs=-1)
@click.option(
    "--patience", type=click.IntRange(min=1), metavar="N", help="Epochs without improvement before it ends."
)
@starts
def submit(function: str, parameters: tuple[str, ...], patience: int | None, how: Start) -> int:
    """Run a function of yours as a job, and watch it.

    MODULE is imported as Python does, also from the current folder; FUNCTION gets the run as its first
    argument, then the parameters.  A VALUE is read as JSON where it is JSON, else as text.
    Ctrl-C stops and saves; a second one kills.

    \b
    trainkit submit fit:train lr=0.001 hidden=[64,64]
    """
    from trainkit.api.arguments import names_of
    from trainkit.cli.functions import find_function, parse_values, refuse_options

    values = parse_values(parameters)
    found = find_function(function)
    refuse_options(values, names_of(found))

    def launch() -> Job:
        from trainkit.api.launching import submit

        return submit(found, values, patience=patience, **placed(how))

    return start(how, launch)
