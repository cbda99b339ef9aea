"""One JupyterLab and one browser for all browser tests.  A missing browser is a failure, not a skip."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, sync_playwright

from .lab import CHROMIUM, CHROMIUM_ARGUMENTS, SHARED_KERNEL, Lab, Notebook


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


@pytest.fixture(scope="session")
def context_of(chromium: Browser) -> Callable[[Lab], BrowserContext]:
    """The browser's memory of a server: what a page has loaded is not loaded again by the next."""
    found: dict[str, BrowserContext] = {}

    def context(lab: Lab) -> BrowserContext:
        if lab.url not in found:
            found[lab.url] = chromium.new_context(viewport={"width": 1150, "height": 950})
        return found[lab.url]

    return context


@pytest.fixture
def notebook(
    context_of: Callable[[Lab], BrowserContext], request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[..., Notebook]]:
    """Open a notebook of code cells; its jobs end with the test; an error of our module fails it.

    Without another it is opened in ``lab``, with the kernel of this environment.
    """
    errors: list[str] = []
    notebooks: list[Notebook] = []

    def opened(cells: list[str], *, lab: Lab | None = None, kernel: str = SHARED_KERNEL) -> Notebook:
        lab = lab or request.getfixturevalue("lab")
        page = context_of(lab).new_page()
        page.set_default_timeout(45_000)
        page.on("pageerror", lambda error: errors.append(f"{error}\n{error.stack}"))
        notebooks.append(Notebook(page, lab))
        name = re.sub(r"[^a-z0-9.]+", "-", f"{request.node.name}.ipynb")
        return notebooks[-1].open(lab.notebook(name, cells, kernel=kernel))

    yield opened
    for nb in notebooks:
        nb.page.screenshot(path=str(tmp_path / "last.png"))
        nb.page.close()
        nb.lab.settle()
    # The module of a widget comes from a blob; JupyterLab's own splash screen raises when themes change quickly.
    ours = [error for error in errors if "blob:" in error]
    assert not ours, ours
