"""What browser tests do and see again and again."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

from playwright.sync_api import Locator, expect

from trainkit.files.record import Status
from trainkit.files.store import Store

from .lab import Lab, Notebook

#: A training function, slow enough to be watched.
FIT = """
import time, trainkit as tk
def fit(run, hidden: int = 64, epochs: int = 1000, pause_s: float = 0.01):
    for epoch in run.epochs(epochs):
        for batch in run.batches(range(20)):
            time.sleep(pause_s)
            run.log(loss=1.0 / run.step)
        run.log(val_loss=1.1 / run.step)
        print("epoch", epoch, "done")
"""


def step(panel: Locator) -> int:
    """Read the step that a monitor shows."""
    found = re.search(r"step (\d+)", panel.locator(".tk-where").inner_text())
    return int(found[1]) if found else 0


def until(condition: Callable[[], Any], within_s: float = 60.0) -> None:
    """Wait until something is so."""
    give_up_at = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up_at, f"not within {within_s:g} s"
        time.sleep(0.05)


def pixels(panel: Locator) -> str:
    """Return what the first chart of a panel has drawn."""
    return str(panel.locator("canvas").first.evaluate("canvas => canvas.toDataURL()"))


def newest(lab: Lab) -> str:
    """Return the id of the job that was started last."""
    store = Store(lab.root)
    return max(store.job_ids(), key=lambda job_id: store.read(job_id).created_at)


def state(panel: Locator, *names: str) -> None:
    """Expect a panel to show one of these states."""
    expect(panel.locator(".tk-state").first).to_have_text(re.compile("|".join(names)), timeout=30_000)


def stop_takes_s(nb: Notebook, panel: Locator, *, give_up_s: float = 30.0) -> float:
    """Click Stop and return how long it took until the job had taken it."""
    store, job_id = Store(nb.lab.root), newest(nb.lab)
    panel.get_by_role("button", name="Stop").click()
    clicked = time.monotonic()
    until(lambda: store.read(job_id).status in (Status.STOPPING, Status.STOPPED), give_up_s)
    return time.monotonic() - clicked


def runs(nb: Notebook, index: int) -> bool:
    """Return whether a cell is running.  The kernel's own state says nothing: a subshell may be idle beside it."""
    return (
        nb.page.locator(".jp-Notebook .jp-CodeCell").nth(index).locator(".jp-InputPrompt").inner_text() == "[*]:"
    )
