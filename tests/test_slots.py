"""The queue: how many jobs run at once, and in which order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from trainkit.errors import OptionError
from trainkit.runners.slots import (
    LIMIT_VARIABLE,
    Ticket,
    job_limit,
    live_job_ids,
    queue_folder,
    usable_cores,
    wait_for_turn,
)


def test_first_drawn_is_first_served(tmp_path: Path) -> None:
    """With two places, the third waits for both before it, and runs when one of them has left."""
    a, b, c, d = (Ticket(name, folder=tmp_path, now_ns=n) for n, name in enumerate("abcd"))
    assert [t.try_start(2) for t in (a, b)] == [[], []]
    assert c.try_start(2) == ["a", "b"]
    a.close()
    assert d.try_start(2) == ["b", "c"], "c is before d, though it does not run yet"
    assert c.try_start(2) == []
    for ticket in (b, c, d):
        ticket.close()
    assert list(tmp_path.glob("*.ticket")) == []


def test_a_running_job_counts_even_if_the_clock_was_set_back(tmp_path: Path) -> None:
    """A ticket drawn 'earlier' than one that runs does not take its place."""
    running = Ticket("running", folder=tmp_path, now_ns=100)
    assert running.try_start(1) == []
    back = Ticket("back", folder=tmp_path, now_ns=50)
    assert back.try_start(1) == ["running"]
    running.close()
    assert back.try_start(1) == []
    back.close()


def test_a_killed_jobs_place_is_free(tmp_path: Path) -> None:
    """A ticket file whose lock nobody holds counts no more and is removed."""
    (tmp_path / f"{0:020d}.dead.ticket").write_bytes(b"running\n")
    ticket = Ticket("alive", folder=tmp_path)
    assert ticket.try_start(1) == []
    assert not (tmp_path / f"{0:020d}.dead.ticket").exists()
    ticket.close()


def test_live_jobs_are_those_that_hold_a_ticket(tmp_path: Path) -> None:
    """Waiting and running jobs count, ended and killed ones do not."""
    (tmp_path / f"{0:020d}.dead.ticket").write_bytes(b"running\n")
    running, waiting, ended = (Ticket(name, folder=tmp_path, now_ns=n) for n, name in enumerate("abc"))
    assert running.try_start(1) == []
    ended.close()
    assert live_job_ids(tmp_path) == ["a", "b"]
    running.close()
    waiting.close()
    assert live_job_ids(tmp_path) == []


def test_waiting_tells_for_whom_once_and_can_be_given_up(tmp_path: Path) -> None:
    """The names of those ahead are told when they change, not at every look."""
    ahead = Ticket("ahead", folder=tmp_path, now_ns=1)
    assert ahead.try_start(1) == []
    told: list[list[str]] = []
    looks = iter([False, False, False, True])
    waiting = Ticket("waiting", folder=tmp_path, now_ns=2)
    ran = wait_for_turn(
        waiting,
        limit=lambda: 1,
        give_up=lambda: next(looks),
        waiting_for=told.append,
        pause=lambda seconds: None,
    )
    assert (ran, told) == (False, [["ahead"]])
    ahead.close()
    waiting.close()


def test_a_stopped_process_that_keeps_the_queue_is_waited_for(tmp_path: Path) -> None:
    """Who it is, is told once, after ten seconds; an end is heard meanwhile, and tickets are drawn as ever."""
    code = """if True:
        import fcntl, os, signal, sys
        file = open(sys.argv[1], "w")
        fcntl.flock(file, fcntl.LOCK_EX)
        print("locked", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
    """
    command = [sys.executable, "-c", code, str(tmp_path / "queue.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as keeper:
        assert keeper.stdout is not None
        keeper.stdout.readline()
        os.waitid(os.P_PID, keeper.pid, os.WSTOPPED)
        ticket = Ticket("waiting", folder=tmp_path)
        told: list[str] = []
        looks = iter(range(100))

        def wait(give_up: Callable[[], bool]) -> bool:
            return wait_for_turn(
                ticket,
                limit=lambda: 1,
                give_up=give_up,
                waiting_for=lambda job_ids: None,
                held_up=told.append,
                clock=lambda: 6.0 * next(looks),
            )

        assert wait(lambda: len(told) == 1 and next(looks) > 10) is False
        (message,) = told
        assert f"process {keeper.pid} (" in message
        assert f"which is stopped; `kill -CONT {keeper.pid}` lets it go on" in message
        os.kill(keeper.pid, signal.SIGCONT)
        assert wait(lambda: False) is True
    ticket.close()


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", ""])
def test_a_limit_that_is_no_number_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting is named, with what it takes."""
    monkeypatch.setenv(LIMIT_VARIABLE, text)
    with pytest.raises(OptionError, match="TRAINKIT_MAX_JOBS.*whole number from 1"):
        job_limit()


def test_the_limit_is_the_setting_or_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the setting as many jobs run as there are cores."""
    monkeypatch.setenv(LIMIT_VARIABLE, "3")
    assert job_limit() == 3
    monkeypatch.delenv(LIMIT_VARIABLE)
    assert job_limit() == usable_cores() >= 1


def test_the_queue_is_private_to_its_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default folder is the user's own, and nobody else can look in."""
    monkeypatch.delenv("TRAINKIT_QUEUE", raising=False)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    assert queue_folder().parent == tmp_path
    assert queue_folder().stat().st_mode & 0o077 == 0
