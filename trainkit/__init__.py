"""Train PyTorch from a notebook without giving the notebook up.

>>> import trainkit as tk
>>> job = tk.train("penguins.csv", target="species")  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from trainkit.api.job import Job as Job
    from trainkit.api.launching import submit as submit
    from trainkit.api.launching import train as train
    from trainkit.api.listing import attach as attach
    from trainkit.api.listing import jobs as jobs
    from trainkit.api.verifying import verify_resume as verify_resume
    from trainkit.errors import TrainkitError as TrainkitError
    from trainkit.files.store import Store as Store
    from trainkit.panels.show import dashboard as dashboard
    from trainkit.panels.show import launcher as launcher
    from trainkit.tabular.model import load_model as load_model
    from trainkit.tabular.read import read_table as read_table
    from trainkit.training.run import Run as Run

#: Where each public name lives.  It is imported when it is first used, so that ``import trainkit`` is quick.
_PUBLIC = {
    "Job": "trainkit.api.job",
    "Run": "trainkit.training.run",
    "Store": "trainkit.files.store",
    "TrainkitError": "trainkit.errors",
    "attach": "trainkit.api.listing",
    "dashboard": "trainkit.panels.show",
    "jobs": "trainkit.api.listing",
    "launcher": "trainkit.panels.show",
    "load_model": "trainkit.tabular.model",
    "read_table": "trainkit.tabular.read",
    "submit": "trainkit.api.launching",
    "train": "trainkit.api.launching",
    "verify_resume": "trainkit.api.verifying",
}

__all__ = [
    "Job",
    "Run",
    "Store",
    "TrainkitError",
    "attach",
    "dashboard",
    "jobs",
    "launcher",
    "load_model",
    "read_table",
    "submit",
    "train",
    "verify_resume",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'trainkit' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
