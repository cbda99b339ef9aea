"""The ways in: show a job, make a panel."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainkit.errors import OptionError, missing_extra
from trainkit.panels.frontend import attached

if TYPE_CHECKING:
    from trainkit.api.job import Job
    from trainkit.files.store import Store
    from trainkit.panels.dashboard import Dashboard
    from trainkit.panels.launcher import Launcher
    from trainkit.panels.monitor import Monitor

_NEEDED = ["anywidget", "tsdownsample", *(["inotify_simple"] if sys.platform == "linux" else [])]


def show_job(job: Job) -> None:
    """Display a job at the end of a cell: live while it runs, a picture with text once it has ended.

    The output that the notebook stores becomes that picture by itself when the job ends.
    """
    from IPython.display import display

    from trainkit.panels.plain import live_text

    show: Callable[..., Any] = display
    if not attached() or not available():
        show({"text/plain": live_text(job.record)}, raw=True)
        return
    from trainkit.api.view import actions
    from trainkit.panels.monitor import Monitor
    from trainkit.panels.picture import bundle

    record = job.record
    if record.status.terminal and not actions(record):
        show(bundle(job), raw=True)
        return
    Monitor(job, settles=True)._ipython_display_()


def available() -> bool:
    """Whether what the panels need is installed."""
    return all(importlib.util.find_spec(name) for name in _NEEDED)


def monitor(job: Job) -> Monitor:
    """Return the live panel of a job, which stays live after its end: charts to zoom, buttons to press.

    Raises:
        MissingExtraError: the ``notebook`` extra is not installed.
    """
    _need()
    from trainkit.panels.monitor import Monitor

    return Monitor(job)


def launcher(function: Callable[..., Any] | None = None, /, *, root: Store | str | Path | None = None) -> Launcher:
    """Return a form that starts a job and then becomes its monitor.

    Args:
        function: a training function: the form asks for its parameters, by their types, defaults, ``Literal``
            or ``Enum`` choices and ``Annotated`` ranges.  Without it, the form trains on a table below the root.
        root: where tables are looked for and the job's files go; without it ``TRAINKIT_ROOT`` or the current
            folder.

    Raises:
        MissingExtraError: the ``notebook`` extra is not installed.
        OptionError: not a function.
    """
    _need()
    from trainkit.files.store import Store
    from trainkit.panels.launcher import Launcher

    if function is not None and not callable(function):
        raise OptionError(
            f"expected a training function, got {function!r:.80}; tk.launcher() without a function is for tables"
        )
    return Launcher(Store.at(root), function)


def dashboard(root: Store | str | Path | None = None) -> Dashboard:
    """Return a live list of all jobs under a root, with their curves; it stops, resumes, deletes and opens them.

    Args:
        root: the root folder; without it ``TRAINKIT_ROOT`` or the current folder.

    Raises:
        MissingExtraError: the ``notebook`` extra is not installed.
    """
    _need()
    from trainkit.files.store import Store
    from trainkit.panels.dashboard import Dashboard

    return Dashboard(Store.at(root))


def _need() -> None:
    if not available():
        raise missing_extra(f"panels need {', '.join(_NEEDED)}", "notebook")
