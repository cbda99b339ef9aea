"""Run notebooks in a real JupyterLab and store what comes out, as a reader would by Run All and Save.

From the root of the repository, for all notebooks or those named::

    python -m tests.notebooks.store [01-first-job.ipynb ...]
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
from playwright.sync_api import Page, sync_playwright

from tests.browser.lab import CHROMIUM, CHROMIUM_ARGUMENTS, Lab, Notebook
from tests.notebooks.running import NOTEBOOKS, copied

WIDGET = "application/vnd.jupyter.widget-view+json"
#: So long after the last cell the panels of the jobs that have ended have become pictures.
SETTLE_MS = 2000


def run(lab: Lab, page: Page, name: str) -> nbformat.NotebookNode:
    """Return a notebook with new outputs.

    Raises:
        RuntimeError: a cell raised.
    """
    copied(name, lab.root)
    notebook = Notebook(page, lab).open(name)
    notebook.command("notebook:run-all-cells")
    page.wait_for_timeout(SETTLE_MS)
    notebook.save()
    found = nbformat.read(lab.root / name, 4)
    for cell in found.cells:
        cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags"}
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                raise RuntimeError(f"{name}: {output.ename}: {output.evalue}\n{cell.source}")
            if "data" in output:
                output.metadata = {}
                output.data.pop(WIDGET, None)  # a live panel: the next reader's kernel does not have it
    found.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"},
        "language_info": {"name": "python"},
    }
    nbformat.validate(found)
    return found


def main(names: list[str]) -> None:
    """Store new outputs in these notebooks, or in all."""
    folder = Path(tempfile.mkdtemp(prefix="store-"))
    lab = Lab(folder)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
            for name in names or sorted(path.name for path in NOTEBOOKS.glob("*.ipynb")):
                page = browser.new_page(viewport={"width": 1100, "height": 1000})
                page.set_default_timeout(120_000)
                nbformat.write(run(lab, page, name), NOTEBOOKS / name)
                page.close()
                lab.end_kernels()
                print(f"{name}: stored")
            browser.close()
    finally:
        lab.close()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main(sys.argv[1:])
