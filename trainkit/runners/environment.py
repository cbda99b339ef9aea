"""The environment of a job in a process of its own."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping

#: Variables that let their reader into a server, or mean the process that has them: none of a job's business.
PRIVATE = (
    "JUPYTER_TOKEN",
    "JUPYTERHUB_API_TOKEN",
    "JPY_*",
    "TRAINKIT_TOKEN",
    "TRAINKIT_JOB_KEY",
    "TRAINKIT_TASK_FILE",
)


def without_private(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without the variables of a server that jobs should not see.

    >>> without_private({"HOME": "/home/a", "JPY_API_TOKEN": "secret", "JUPYTER_TOKEN": "secret"})
    {'HOME': '/home/a'}
    """
    return {
        name: value
        for name, value in environment.items()
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in PRIVATE)
    }
