"""One thread per kernel that keeps all panels fresh, at most four times a second.

It runs while there is a panel to refresh and ends with the last one.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from typing import Protocol

PERIOD_S = 0.25
_log = logging.getLogger("trainkit")


class Refreshable(Protocol):
    """What the refresher calls."""

    def refresh(self) -> bool:
        """Send what is new.  Returns whether there can be more: with False it is not called again."""

    def broken(self, error: Exception) -> None:
        """Take the error that ended the refreshing."""


class Refresher:
    """Calls ``refresh`` of every panel, each at most once per period, until it returns False.

    Args:
        period_s: seconds between two rounds.
    """

    def __init__(self, period_s: float = PERIOD_S) -> None:
        self.period_s = period_s
        #: The panels, and whether each was added again since its refresh began.
        self._panels: dict[Refreshable, bool] = {}
        self._guard = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._ending = False

    def add(self, panel: Refreshable) -> None:
        """Refresh this panel from now on."""
        with self._guard:
            if self._ending:
                return
            self._panels[panel] = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="trainkit-panels", daemon=True)
                self._thread.start()

    def remove(self, panel: Refreshable) -> None:
        """Refresh this panel no longer."""
        with self._guard:
            self._panels.pop(panel, None)
        self._wake.set()

    def panels(self) -> list[Refreshable]:
        """Return the panels that are being refreshed."""
        with self._guard:
            return list(self._panels)

    def end(self) -> None:
        """End the thread, when the interpreter ends."""
        with self._guard:
            self._ending = True
            self._panels.clear()
            thread = self._thread
        self._wake.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=5.0)

    def _mark(self, panel: Refreshable) -> None:
        with self._guard:
            if panel in self._panels:
                self._panels[panel] = False

    def _drop(self, panel: Refreshable) -> None:
        """Refresh a panel without news no longer, unless somebody added it while it was being refreshed."""
        with self._guard:
            if not self._panels.get(panel, True):
                del self._panels[panel]

    def _run(self) -> None:
        while True:
            began = time.monotonic()
            for panel in self.panels():
                self._mark(panel)
                try:
                    more = panel.refresh()
                except Exception as error:  # noqa: BLE001 - a thread's boundary: the panel tells, the log keeps it
                    _log.exception("a panel could not be refreshed")
                    more = False
                    try:
                        panel.broken(error)
                    except Exception:  # noqa: BLE001 - the other panels go on
                        _log.exception("a panel could not report what ended it")
                if not more:
                    self._drop(panel)
            with self._guard:
                if not self._panels:
                    self._thread = None
                    return
            self._wake.clear()
            if self.panels():
                self._wake.wait(max(0.02, self.period_s - (time.monotonic() - began)))


#: The one of this process.
refresher = Refresher()
atexit.register(refresher.end)
