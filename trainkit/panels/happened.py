"""What happened to a job that people want to see beside its charts: live changes and warnings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainkit.api import view
from trainkit.files.streams import attempt_of, tail

#: A page shows as many of each, the newest.
MOST_CHANGES, MOST_WARNINGS = 60, 5


class Happened:
    """Follows a job's events.

    Args:
        path: of the events stream.

    Attributes:
        warnings: the last warnings, oldest first; those that have ``passed`` say so.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.warnings: list[dict[str, Any]] = []
        self._changes: list[dict[str, Any]] = []
        self._offset = 0

    def read(self) -> None:
        """Read what the stream has got since the last call."""
        events, self._offset = tail(self.path, self._offset)
        for event in events:
            if event.get("event") in ("warning", "cleared"):
                self._word(event, passed=event["event"] == "cleared")
            elif event.get("event") == "change" and isinstance(event.get("params"), Mapping):
                self._changes.append(event)
        del self.warnings[:-MOST_WARNINGS]

    def _word(self, event: Mapping[str, Any], *, passed: bool) -> None:
        """Take a warning, or the word that what it warned of has passed; of one cause the newest word counts."""
        cause, message = event.get("cause"), str(event.get("message"))
        self.warnings = [each for each in self.warnings if cause is None or each["cause"] != cause]
        self.warnings.append({"step": event.get("step"), "message": message, "cause": cause, "passed": passed})

    def changes(self, begins: Mapping[int, float]) -> list[dict[str, Any]]:
        """Return the live changes that count, as ``{"step": …, "text": …}``, oldest first.

        Args:
            begins: the first step of each attempt that repeats steps; what an older attempt changed from there
                on was undone by going back.
        """
        found = []
        for event in self._changes:
            attempt, step = attempt_of(event), event.get("step", 0)
            if not isinstance(step, (int, float)):
                continue
            if not any(later > attempt and step >= first for later, first in begins.items()):
                found.append({"step": step, "text": change_text(event)})
        return found[-MOST_CHANGES:]


def change_text(event: Mapping[str, Any]) -> str:
    """Return in words what a live change changed.

    >>> change_text({"params": {"lr": 0.0003}, "before": {"lr": 0.001}})
    'lr 0.001 → 0.0003'
    """
    before = event.get("before")
    known = before if isinstance(before, Mapping) else {}
    words = []
    for name, value in event["params"].items():
        was = "" if known.get(name) is None else f"{view.brief(known[name])} "
        words.append(f"{view.clean(name)} {was}→ {view.brief(value)}")
    return ", ".join(words)
