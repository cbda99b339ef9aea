"""One JupyterLab and one browser for all browser tests.  A missing browser is a failure, not a skip."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from .lab import CHROMIUM, CHROMIUM_ARGUMENTS, Lab, Notebook


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("lab"))
    yield lab
    lab.close()


@pytest.fixture(scope="session")
def bare_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A JupyterLab without our server extension: as in VS Code or Colab, only the kernel can be asked."""
    lab = Lab(tmp_path_factory.mktemp("bare"), extension=False)
    yield lab
    lab.close()


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Install packages, without what they need, into a folder of their own; once per session."""
    found: dict[tuple[str, ...], Path] = {}

    def install(*requirements: str) -> Path:
        if requirements not in found:
            found[requirements] = tmp_path_factory.mktemp("packages")
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
            subprocess.run([*command, "--target", str(found[requirements]), *requirements], check=True)
        return found[requirements]

    return install


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def notebook(
    chromium: Browser, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[..., Notebook]]:
    """Open a notebook of code cells; its kernels end with the test; an error of our module fails it.

    Without another it is opened in ``lab``, with the kernel of this environment.
    """
    context = chromium.new_context(viewport={"width": 1150, "height": 950})
    page = context.new_page()
    page.set_default_timeout(45_000)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(f"{error}\n{error.stack}"))

    labs: list[Lab] = []

    def opened(cells: list[str], *, lab: Lab | None = None, kernel: str = "python3") -> Notebook:
        lab = lab or request.getfixturevalue("lab")
        labs.append(lab)
        name = re.sub(r"[^a-z0-9.]+", "-", f"{request.node.name}.ipynb")
        return Notebook(page, lab).open(lab.notebook(name, cells, kernel=kernel))

    yield opened
    page.screenshot(path=str(tmp_path / "last.png"))
    context.close()
    for lab in labs:
        lab.end_kernels()
    # The module of a widget comes from a blob; JupyterLab's own splash screen raises when themes change quickly.
    ours = [error for error in errors if "blob:" in error]
    assert not ours, ours
