"""The command line, ``trainkit``.

``exits`` says how a command ends, ``watching`` follows a job, ``screens`` draw it, ``commands`` are the words.
"""

from trainkit.cli.commands import main

__all__ = ["main"]
