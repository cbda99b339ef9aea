"""A click takes effect at once on every ipykernel that is about, by both ways that it can take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from .lab import Lab, Notebook
from .seeing import FIT, runs, state, step, stop_takes_s, until

BUSY_S = 8
CELLS = [
    f"{FIT}\nimport ipykernel; print(ipykernel.__version__)",
    "job = tk.submit(fit)\njob",
    f"began = time.time()\nwhile time.time() - began < {BUSY_S}: pass",
]
#: Whether the kernel hears a page while it runs a cell: since ipykernel 7, by a subshell.
HEARD_WHILE_BUSY = {"6.31.0": False, "7.0.1": True, "7.1.0": True, "7.2.0": True, "7.3.0": True, "7.4.0": True}


def versions(cheap: str) -> list[Any]:
    """Return all versions as parameters; all but one are of the long form."""
    return [
        pytest.param(each, marks=pytest.mark.extended if each == cheap else pytest.mark.long)
        for each in HEARD_WHILE_BUSY
    ]


pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.timeout(240)]


def kernel_of(lab: Lab, installed: Callable[..., Path], version: str) -> str:
    """Offer a kernel of a version of ipykernel, and return its name."""
    name = f"ipykernel-{version}"
    lab.add_kernel(name, installed(f"ipykernel=={version}", "nest-asyncio"))
    return name


def busy_with_a_job(nb: Notebook, version: str) -> None:
    nb.run(0)
    assert nb.outputs(0)[0]["text"].strip() == version
    nb.run(1)
    panel = nb.output(1).locator(".tk-monitor")
    state(panel, "Running")
    nb.run(2, wait=False)
    before = step(panel)
    until(lambda: step(panel) > before)


@pytest.mark.parametrize("version", versions("6.31.0"))
def test_by_the_server(
    notebook: Callable[..., Notebook], lab: Lab, installed: Callable[..., Path], version: str
) -> None:
    """With the server extension, Stop takes effect within a second while a cell runs."""
    nb = notebook(CELLS, kernel=kernel_of(lab, installed, version))
    busy_with_a_job(nb, version)
    panel = nb.output(1).locator(".tk-monitor")
    took_s = stop_takes_s(nb, panel)
    assert runs(nb, 2)
    print(f"ipykernel {version}, by the server: {took_s:.2f} s")
    assert took_s < 1.0
    expect(nb.output(1)).to_contain_text("Stopped", timeout=30_000)


@pytest.mark.parametrize("version", versions("7.4.0"))
def test_by_the_kernel_alone(
    notebook: Callable[..., Notebook], bare_lab: Lab, installed: Callable[..., Path], version: str
) -> None:
    """Without it the panel says what that means, and Stop takes effect: at once where the kernel hears while it
    is busy, else at the end of the cell."""
    nb = notebook(CELLS, lab=bare_lab, kernel=kernel_of(bare_lab, installed, version))
    busy_with_a_job(nb, version)
    panel = nb.output(1).locator(".tk-monitor")
    expect(panel.locator(".tk-info:visible")).to_contain_text("Buttons go through the kernel here")
    took_s = stop_takes_s(nb, panel)
    print(f"ipykernel {version}, by the kernel alone: {took_s:.2f} s")
    if HEARD_WHILE_BUSY[version]:
        assert runs(nb, 2)
        assert took_s < 1.0
    else:
        assert took_s < BUSY_S + 5
    expect(nb.output(1)).to_contain_text("Stopped", timeout=30_000)
