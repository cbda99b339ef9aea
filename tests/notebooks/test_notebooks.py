"""The notebooks say the truth: each runs as a reader would run it, and gives what is stored in it."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook, new_output

from .running import NOTEBOOKS, copied, run_and_compare

NAMES = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))
#: Those whose jobs have several ranks, for the step of CI that runs such jobs.
OF_RANKS = {"07-from-laptop-to-cluster.ipynb"}
LIVE = "nbval-ignore-output"
#: What differs from run to run, and so has no place in a stored output.
_PASSING = re.compile(
    r"job_\d{13}_[0-9a-f]{8}|\b0x[0-9a-f]{6,}|(?<![\w.<])/(tmp|home|work|usr|Users|root)/|ipykernel_\d+|\b\d\d:\d\d:\d\d\b"
)


def cells_of(name: str) -> list[Any]:
    return [cell for cell in nbformat.read(NOTEBOOKS / name, 4).cells if cell.cell_type == "code"]


def texts_of(cell: Any) -> list[str]:
    """Return all that people can read of a cell's outputs; pictures are left out."""
    found = []
    for output in cell.outputs:
        found += [output.get("text", ""), *output.get("data", {}).values()]
    return [re.sub(r"base64,[A-Za-z0-9+/=]+", "", text) for text in found if not text.startswith("iVBOR")]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.ranks) if name in OF_RANKS else name for name in NAMES]
)
def test_every_cell_gives_what_is_stored(name: str, tmp_path: Path) -> None:
    """Strictly compared by nbval; within the memory of a Binder; and no file is left of its jobs."""
    notebook = copied(name, tmp_path)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    report = run_and_compare(notebook, tmp_path / "queue")
    print(report.text)
    print(f"{name}: peak memory {report.peak_bytes / 2**20:.0f} MB")
    assert report.passed, report.text
    # Binder has the CPU build of torch; a CUDA build loads more libraries in every process.
    assert report.peak_bytes < (1e9 if torch.version.cuda is None else 2e9)
    left = {path for path in tmp_path.rglob("*") if path.is_file() and "queue" not in path.parts}
    assert {path for path in left - before if "ipython" not in path.parts} == set()


@pytest.mark.extended
def test_a_job_that_fails_fails_its_notebook(tmp_path: Path) -> None:
    """A notebook that asks for the result cannot pass while the training raises in the background."""
    source = (
        "import trainkit as tk\n"
        "def fit(run):\n"
        "    run.log(loss=1.0)\n"
        "    raise ValueError('the data is bad')\n"
        "job = tk.submit(fit)",
        "job.result()",
    )
    cells = [new_code_cell(text, execution_count=number) for number, text in enumerate(source, 1)]
    path = tmp_path / "bad.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    report = run_and_compare(path, tmp_path / "queue")
    assert not report.passed
    assert "1 failed, 1 passed" in report.text
    assert "the data is bad" in report.text


@pytest.mark.extended
def test_an_output_that_is_not_true_fails_its_notebook(tmp_path: Path) -> None:
    """The comparison is strict: a stored state that the job does not reach is found."""
    cell = new_code_cell(
        "import trainkit as tk\ntk.submit(lambda run: run.log(loss=1.0)).wait()",
        execution_count=1,
        outputs=[new_output("execute_result", {"text/plain": "STOPPED"}, execution_count=1)],
    )
    path = tmp_path / "wrong.ipynb"
    nbformat.write(new_notebook(cells=[cell]), path)
    report = run_and_compare(path, tmp_path / "queue")
    assert not report.passed
    assert "COMPLETED" in report.text


@pytest.mark.parametrize("name", NAMES)
def test_stored_outputs_are_whole_and_hold_nothing_that_passes(name: str) -> None:
    """Every cell was run, in order, without an error; no ids, times, addresses or absolute paths."""
    cells = cells_of(name)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert not [output for output in cell.outputs if output.output_type == "error"]
        assert not [
            output
            for output in cell.outputs
            if "application/vnd.jupyter.widget-view+json" in output.get("data", {})
        ]
        for text in texts_of(cell):
            assert not _PASSING.findall(text), text
    assert (NOTEBOOKS / name).stat().st_size < 300_000


@pytest.mark.parametrize("name", NAMES)
def test_only_a_live_panel_goes_uncompared(name: str) -> None:
    """Where a job is displayed while it runs, the stored output is its end's picture; all else is compared."""
    for cell in cells_of(name):
        skipped = LIVE in cell.metadata.get("tags", [])
        is_picture = any("Completed</b>" in text for text in texts_of(cell))
        assert skipped == is_picture
        assert not re.search(r"NBVAL|PYTEST_VALIDATE", cell.source)


def test_the_notebooks_are_numbered_and_link_to_each_other() -> None:
    """A reader comes from each to the next."""
    assert [int(name[:2]) for name in NAMES] == list(range(1, len(NAMES) + 1))
    for name, following in itertools.pairwise(NAMES):
        assert following in nbformat.read(NOTEBOOKS / name, 4).cells[-1].source
