"""Runs notebooks as a reader would, in a process of its own, and compares what comes out with what is stored."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import psutil

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
SANITIZER = NOTEBOOKS / "nbval_sanitize.cfg"
#: For a whole notebook, on a machine that does other things too.
TIMEOUT_S = 240


@dataclass(frozen=True)
class Report:
    """How a run went.

    Attributes:
        passed: whether every cell ran and gave what is stored.
        text: pytest's report.
        peak_bytes: the most memory that the kernel and all that it started held together, each page of memory
            that several of them share counted once.
    """

    passed: bool
    text: str
    peak_bytes: int


def copied(name: str, folder: Path) -> Path:
    """Copy a notebook and the tables beside it, so that a run cannot leave anything in the checkout."""
    for table in NOTEBOOKS.glob("*.csv"):
        shutil.copy(table, folder)
    return Path(shutil.copy(NOTEBOOKS / name, folder))


def run_and_compare(notebook: Path, queue: Path, *, python: str = sys.executable) -> Report:
    """Run ``pytest --nbval``, strict, on one notebook.

    Args:
        notebook: its path.
        queue: a queue of its own for its jobs.
        python: whose kernel, and whose pytest.
    """
    env = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("JUPYTER", "JPY_", "TRAINKIT", "PYTEST"))
    }
    env |= {"TRAINKIT_QUEUE": str(queue), "OMP_NUM_THREADS": "1", "IPYTHONDIR": str(queue.parent / "ipython")}
    command = [
        *(python, "-m", "pytest", "--nbval", "--nbval-current-env", f"--nbval-sanitize-with={SANITIZER}"),
        *("--nbval-cell-timeout=120", "-p", "no:cacheprovider", "--color=no", "--tb=short", "-v", str(notebook)),
    ]
    process = subprocess.Popen(
        command, cwd=notebook.parent, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    family, over, peaks = psutil.Process(process.pid), threading.Event(), [0]

    def watch() -> None:
        while not over.wait(0.2):
            peaks.append(_held_bytes(family))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        text, _ = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        for child in family.children(recursive=True):
            child.kill()
        process.kill()
        text = process.communicate()[0] + f"\nnot done after {TIMEOUT_S} s"
    finally:
        over.set()
        watcher.join()
    return Report(process.returncode == 0, text, max(peaks))


def _held_bytes(family: psutil.Process) -> int:
    """Return what the children of a process hold; the process itself is pytest, which no reader runs."""
    total = 0
    try:
        children = family.children(recursive=True)
    except psutil.NoSuchProcess:
        return 0  # all is over
    for child in children:
        try:
            memory = child.memory_full_info()
        except psutil.Error:
            continue  # it has just ended
        total += getattr(memory, "pss", memory.rss)
    return total
