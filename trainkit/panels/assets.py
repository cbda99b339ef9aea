"""The JavaScript and CSS of the panels: a few plain files, joined into one module; no bundler."""

from __future__ import annotations

import functools
from importlib.resources import files

_SCRIPTS = (
    "uplot.min.js",
    "dom.js",
    "wire.js",
    "chart.js",
    "controls.js",
    "bell.js",
    "monitor.js",
    "dashboard.js",
    "launcher.js",
    "main.js",
)
_STYLES = ("uplot.min.css", "panel.css")


@functools.cache
def script() -> str:
    """Return the one ES module of all panels."""
    return _joined(_SCRIPTS)


@functools.cache
def style() -> str:
    """Return the one style sheet of all panels."""
    return _joined(_STYLES)


def _joined(names: tuple[str, ...]) -> str:
    folder = files("trainkit.panels") / "assets"
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in names)
