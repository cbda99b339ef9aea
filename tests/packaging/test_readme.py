"""The README's first lines run as they are pasted: as one script, and as cells of a notebook."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest

CHECKOUT = Path(__file__).parents[2]
#: One each for the table, the function, its replay and its branch.
JOBS = 4


@pytest.fixture
def first_lines() -> str:
    """The README's first example."""
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- first lines -->\n```python\n(.*?)```", readme, re.DOTALL)
    assert block is not None
    return block[1]


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like a fresh clone, where the jobs of the example go; also its own queue."""
    for name in [name for name in os.environ if name.startswith("TRAINKIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TRAINKIT_QUEUE", str(tmp_path / "queue"))
    monkeypatch.setenv("TRAINKIT_SPARE", "0")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    folder = tmp_path / "clone"
    folder.mkdir()
    (folder / "notebooks").symlink_to(CHECKOUT / "notebooks")
    monkeypatch.chdir(folder)
    return folder


def states(clone: Path) -> list[str]:
    """Return the states of all jobs, as their files tell them."""
    records = (clone / "artifacts" / "jobs").glob("*.json")
    return [json.loads(path.read_text(encoding="utf-8"))["status"] for path in records]


@pytest.mark.timeout(300)
def test_first_lines_run_as_a_script(first_lines: str, clone: Path) -> None:
    """Pasted into a file, they run to the end, and every job that they start completes."""
    (clone / "first.py").write_text(first_lines)
    finished = subprocess.run([sys.executable, "first.py"], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert states(clone) == ["COMPLETED"] * JOBS


@pytest.mark.extended
@pytest.mark.timeout(300)
def test_first_lines_run_as_cells(first_lines: str, clone: Path) -> None:
    """Pasted into a notebook, one statement a cell, no cell fails and every job completes."""
    statements = [ast.get_source_segment(first_lines, node) for node in ast.parse(first_lines).body]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in statements])
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    assert states(clone) == ["COMPLETED"] * JOBS
