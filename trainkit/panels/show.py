"""The ways in: show a job, make a panel."""

from __future__ import annotations

import importlib.util
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainkit.errors import MissingExtraError
from trainkit.panels.frontend import attached

if TYPE_CHECKING:
    from trainkit.job import Job
    from trainkit.panels.monitor import Monitor


def show_job(job: Job) -> None:
    """Display a job at the end of a cell: live while it runs, a picture with text once it has ended.

    The output that the notebook stores becomes that picture by itself when the job ends.
    """
    from IPython.display import DisplayHandle, display

    from trainkit.panels.plain import live_text

    if not attached() or not available():
        display({"text/plain": live_text(job)}, raw=True)
        return
    from trainkit.panels.picture import bundle

    record = job.record
    if record.status.terminal and not keeps_its_panel(record):
        display(bundle(job), raw=True)
        return
    from trainkit.panels.monitor import Monitor

    handle = DisplayHandle()
    displayed = threading.Event()

    def on_end(panel: Monitor) -> None:
        displayed.wait()
        record = job.record
        if keeps_its_panel(record):
            # Resume must stay within reach; whoever reads the notebook later still finds the picture.
            data, metadata = panel._repr_mimebundle_()
            handle.update({**data, **bundle(job)}, raw=True, metadata=metadata)
        else:
            handle.update(bundle(job), raw=True)
            panel.close()

    panel = Monitor(job, on_end=on_end)
    data, metadata = panel._repr_mimebundle_()
    try:
        handle.display(data, raw=True, metadata=metadata)
    finally:
        displayed.set()


def available() -> bool:
    """Whether what the panels need is installed."""
    return all(importlib.util.find_spec(name) for name in ("anywidget", "tsdownsample"))


def keeps_its_panel(record: Any) -> bool:
    """Whether a job that has ended still needs buttons: one that vanished and can go on."""
    from trainkit.record import Status
    from trainkit.view import actions

    return record.status is Status.INTERRUPTED and bool(actions(record))


def monitor(job: Job) -> Monitor:
    """Return the live panel of a job, which stays live after its end: charts to zoom, buttons to press.

    Raises:
        MissingExtraError: anywidget is not installed.
    """
    _need()
    from trainkit.panels.monitor import Monitor

    return Monitor(job)


def launcher(function: Any = None, /, *, root: Any = None) -> Any:
    """Return the form."""
    raise NotImplementedError


def dashboard(root: str | Path | None = None) -> Any:
    """Return the dashboard."""
    raise NotImplementedError


def _need() -> None:
    if not available():
        raise MissingExtraError("panels need anywidget and tsdownsample: pip install 'trainkit[notebook]'")
