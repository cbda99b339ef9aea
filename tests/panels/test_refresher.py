"""The thread that keeps panels fresh."""

from __future__ import annotations

import threading
from collections.abc import Callable

from trainkit.panels.refresher import Refresher

Eventually = Callable[..., None]


class Counted:
    """A panel that has news a given number of times."""

    def __init__(self, rounds: int, error: Exception | None = None) -> None:
        self.left = rounds
        self.calls = 0
        self.error = error
        self.told: Exception | None = None

    def refresh(self) -> bool:
        self.calls += 1
        if self.error is not None:
            raise self.error
        self.left -= 1
        return self.left > 0

    def broken(self, error: Exception) -> None:
        self.told = error


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "trainkit-panels"]


def test_ends_with_its_last_panel(eventually: Eventually) -> None:
    """A panel is refreshed until it has no more news; without panels there is no thread."""
    refresher = Refresher(period_s=0.01)
    before = len(threads())
    one, two = Counted(3), Counted(5)
    refresher.add(one)
    refresher.add(two)
    refresher.add(two)
    eventually(lambda: len(threads()) == before)
    assert (one.calls, two.calls) == (3, 5)
    assert refresher.panels() == []


def test_starts_again(eventually: Eventually) -> None:
    """After its thread has ended, a new panel starts a new one."""
    refresher = Refresher(period_s=0.01)
    for _ in range(3):
        panel = Counted(2)
        refresher.add(panel)
        eventually(lambda: refresher._thread is None)
        assert panel.calls == 2


def test_a_wish_during_a_refresh_is_not_lost(eventually: Eventually) -> None:
    """Who adds a panel while its last refresh is under way has it refreshed once more."""
    refresher = Refresher(period_s=0.01)

    class Asked(Counted):
        def refresh(self) -> bool:
            if self.calls == 0:
                refresher.add(self)
            return super().refresh()

    panel = Asked(1)
    refresher.add(panel)
    eventually(lambda: refresher._thread is None)
    assert panel.calls == 2


def test_one_broken_panel_does_not_stop_the_others(eventually: Eventually) -> None:
    """A panel whose refreshing fails is told why and left out."""
    refresher = Refresher(period_s=0.01)
    bad, good = Counted(9, OSError("no such disk")), Counted(4)
    refresher.add(bad)
    refresher.add(good)
    eventually(lambda: good.calls == 4)
    assert bad.calls == 1
    assert str(bad.told) == "no such disk"


def test_at_most_once_a_period(eventually: Eventually) -> None:
    """However often a panel is added, it is refreshed no more than four times a second by default."""
    refresher = Refresher(period_s=0.2)
    panel = Counted(1000)
    done = threading.Event()
    threading.Timer(0.9, done.set).start()
    while not done.is_set():
        refresher.add(panel)
    refresher.remove(panel)
    assert 2 <= panel.calls <= 6
    eventually(lambda: refresher._thread is None)


def test_ends_at_exit() -> None:
    """At the end of the interpreter the thread is joined, and nothing new begins."""
    refresher = Refresher(period_s=0.01)
    refresher.add(Counted(10**9))
    refresher.end()
    assert not refresher.panels()
    refresher.add(Counted(1))
    assert not refresher.panels()
