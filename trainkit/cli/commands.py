"""All words of the command line, in the order in which the help lists them."""

import click

from trainkit.cli import driving, looking, repeating, serving, starting
from trainkit.cli.group import cli

WORDS: list[click.Command] = [
    starting.train,
    starting.submit,
    looking.jobs,
    looking.status,
    looking.watch,
    looking.logs,
    driving.stop,
    driving.finish,
    driving.pause,
    driving.resume,
    driving.kill,
    driving.set_,
    driving.delete,
    repeating.checkpoints,
    repeating.replay,
    repeating.branch,
    repeating.verify_resume,
    serving.serve,
]
for word in WORDS:
    cli.add_command(word)


def main() -> None:
    """Run the command line of this process."""
    cli.main()
