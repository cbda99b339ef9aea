"""One JupyterLab and one browser for all browser tests.  A missing browser is a failure, not a skip."""

from __future__ import annotations

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
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def notebook(
    chromium: Browser, lab: Lab, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[[list[str]], Notebook]]:
    """Open a notebook of code cells; its kernels end with the test; an error of our module fails it."""
    context = chromium.new_context(viewport={"width": 1150, "height": 950})
    page = context.new_page()
    page.set_default_timeout(45_000)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(f"{error}\n{error.stack}"))

    def opened(cells: list[str]) -> Notebook:
        return Notebook(page, lab).open(lab.notebook(f"{request.node.name}.ipynb".replace("[", "-"), cells))

    yield opened
    page.screenshot(path=str(tmp_path / "last.png"))
    context.close()
    lab.end_kernels()
    # The module of a widget comes from a blob; JupyterLab's own splash screen raises when themes change quickly.
    ours = [error for error in errors if "blob:" in error]
    assert not ours, ours
