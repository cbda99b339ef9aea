"""The command line, ``trainkit``.

``group`` is the command; ``starting``, ``looking``, ``driving`` and ``serving`` hold its words, ``commands`` lists
them.  ``exits`` says how one ends, ``watching`` follows a job, ``screens`` draw it.
"""

from trainkit.cli.commands import main

__all__ = ["main"]
