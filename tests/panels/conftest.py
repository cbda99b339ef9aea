"""Panels without a browser: what they send is kept, what a page would say is put in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from trainkit.panels.panel import Panel


class Page:
    """What a page sees of a panel, and what it says to it."""

    def __init__(self, panel: Panel, eventually: Callable[..., None]) -> None:
        self.panel = panel
        self.sent: list[dict[str, Any]] = []
        self.buffers: list[list[bytes]] = []
        self._eventually = eventually
        panel.send = self._take
        panel.begin()

    def _take(self, content: dict[str, Any], buffers: list[bytes] | None = None) -> None:
        self.sent.append(content)
        self.buffers.append(buffers or [])

    def say(self, **message: Any) -> None:
        """Say something to the panel, the way the widget's machinery does."""
        self.panel._handle_custom_msg(message, [])

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Return the messages of a type."""
        return [content for content in list(self.sent) if content["type"] == kind]

    def hears(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Wait for a message of a type whose fields are these, and return it."""

        def found() -> list[dict[str, Any]]:
            return [each for each in self.of(kind) if all(each.get(key) == value for key, value in fields.items())]

        self._eventually(found)
        return found()[0]


@pytest.fixture
def page(eventually: Callable[..., None]) -> Iterator[Callable[[Panel], Page]]:
    """Open a page on a panel; it is closed after the test."""
    panels: list[Panel] = []

    def opened(panel: Panel) -> Page:
        panels.append(panel)
        return Page(panel, eventually)

    yield opened
    for panel in panels:
        panel.close()
