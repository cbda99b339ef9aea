"""Panels as plain text, for where nobody looks: nbval, nbclient, papermill, a terminal.

Two equal runs give equal text: no ids, times, paths, and nothing of a job that is still changing.
"""

from __future__ import annotations

from pathlib import PurePath

from trainkit.api import view
from trainkit.files.record import Record


def live_text(record: Record) -> str:
    """Return one job: the summary of one that has ended, what to do with one that has not.

    Args:
        record: with the state that is true now.

    >>> import tempfile, trainkit
    >>> def fit(run, steps=2):
    ...     for step in range(steps):
    ...         run.log(loss=0.5 ** step)
    >>> job = trainkit.submit(fit, root=tempfile.mkdtemp())
    >>> _ = job.wait()
    >>> print(live_text(job.record))
    fit: COMPLETED · step 2
      loss 0.5
      runner: thread
    """
    if record.status.terminal:
        return view.text(record)
    lines = [view.clean(f"{record.name}: in the background, in a {record.runner}")]
    params = [f"{view.clean(name)}={without_folder(view.brief(value))}" for name, value in record.params.items()]
    if params:
        lines.append("  " + "  ".join(params))
    lines.append("  job.wait() waits until it has ended; job.state, job.metrics() and job.stop() work meanwhile")
    return "\n".join(lines)


def gone_text(record: Record) -> str:
    """Return what is said of a job that was deleted."""
    return f"{view.clean(record.name)}: deleted"


def without_folder(text: str) -> str:
    """Return the file name of an absolute path, which differs between machines; any other text as it is.

    >>> without_folder("/home/me/penguins.csv"), without_folder("relu")
    ('penguins.csv', 'relu')
    """
    return PurePath(text).name if PurePath(text).is_absolute() else text
