"""The same panels in Notebook 7."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from .lab import Lab, Notebook
from .seeing import FIT, runs, state, step, stop_takes_s, until

pytestmark = [pytest.mark.extended, pytest.mark.xdist_group("browser"), pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def notebook_7(tmp_path_factory: pytest.TempPathFactory, installed: Callable[..., Path]) -> Iterator[Lab]:
    packages = installed("notebook>=7.4")
    server = Lab(tmp_path_factory.mktemp("notebook"), application="notebook", packages=packages)
    yield server
    server.close()


def test_a_job_from_start_to_picture(notebook: Callable[..., Notebook], notebook_7: Lab) -> None:
    """A chart that moves, a Stop that works while a cell runs, a page that is loaded again, and the picture."""
    nb = notebook(
        [FIT, "job = tk.submit(fit)\njob", "began = time.time()\nwhile time.time() - began < 8: pass"],
        lab=notebook_7,
    )
    nb.run(0)
    nb.run(1)
    panel = nb.output(1).locator(".tk-monitor")
    state(panel, "Running")
    until(lambda: panel.locator("canvas").count() and step(panel) > 5)
    nb.save()
    nb.page.reload()
    nb.ready()
    expect(panel.locator("canvas")).to_have_count(1, timeout=30_000)
    nb.run(2, wait=False)
    before = step(panel)
    until(lambda: step(panel) > before)
    took_s = stop_takes_s(nb, panel)
    assert runs(nb, 2)
    print(f"Notebook 7, by the server: {took_s:.2f} s")
    assert took_s < 1.0
    expect(nb.output(1).locator("img")).to_have_count(1, timeout=30_000)
    expect(nb.output(1)).to_contain_text("Stopped")
    (stored,) = nb.outputs(1)
    assert sorted(stored["data"]) == ["text/html", "text/plain"]
