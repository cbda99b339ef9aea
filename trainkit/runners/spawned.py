"""The ``__main__`` of a process that a job's process spawns: DataLoader workers, for example.

``multiprocessing`` runs this module there.  Nothing is loaded before pickle looks for a name of the notebook.
"""

from __future__ import annotations

import functools
import os
import pickle
from pathlib import Path
from typing import Any

from trainkit.files.paths import JobPaths
from trainkit.runners.main_module import TASK_VARIABLE
from trainkit.runners.task import checked_task, definitions_in, main_of


@functools.cache
def _task() -> bytes:
    # Checked again: it may have been replaced since the job's process has loaded it.
    path = Path(os.environ[TASK_VARIABLE])
    return checked_task(JobPaths(path.parents[3], path.parent.name))


@functools.cache
def __getattr__(name: str) -> Any:
    if not name.startswith("__") and TASK_VARIABLE in os.environ:
        if (data := definitions_in(_task()).get(name)) is not None:
            return pickle.loads(data)
        if name in (found := _mentioned()):
            return found[name]
    raise AttributeError(f"module '__main__' has no attribute {name!r}")


@functools.cache
def _mentioned() -> dict[str, Any]:
    """Load the whole task, for a definition that was too large to travel alone."""
    return main_of(_task())
