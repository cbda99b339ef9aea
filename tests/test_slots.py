"""The queue: how many jobs run at once, and in which order."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainkit.errors import OptionError, RunnerError
from trainkit.runners.queueing import RESTORED_S, Turn
from trainkit.runners.slots import (
    LIMIT_VARIABLE,
    Ticket,
    job_limit,
    live_job_ids,
    queue_folder,
    usable_cores,
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


def waits(ticket: Ticket, **options: Any) -> Turn:
    """Return the turn of a ticket, in a queue of one place."""
    return Turn(ticket, **{"limit": lambda: 1, "waiting_for": lambda ids: None, "report": pytest.fail, **options})


def test_waiting_reports_the_jobs_ahead_when_they_change(tmp_path: Path) -> None:
    """Not at every look; a place that becomes free is seen at the next one."""
    first, second, last = (Ticket(name, folder=tmp_path, now_ns=n) for n, name in enumerate("abc"))
    assert first.try_start(1) == []
    reported: list[list[str]] = []
    turn = waits(last, waiting_for=reported.append)
    assert [turn.has_come() for _ in range(3)] == [False] * 3
    assert reported == [["a"]]
    first.close()
    assert not turn.has_come()
    assert reported == [["a"], ["b"]]
    second.close()
    assert turn.has_come()
    last.close()


def test_a_queue_in_which_nothing_changes_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look costs one `stat`; the queue is read when its folder changed, or one ahead was killed."""
    first, last = (Ticket(name, folder=tmp_path, now_ns=n) for n, name in enumerate("ab"))
    assert first.try_start(1) == []
    an_hour_ago = time.time() - 3600
    os.utime(tmp_path, (an_hour_ago, an_hour_ago))
    times = iter([0.0, 0.1, 0.2, 0.6, 5.0, 5.1, 5.7])
    turn = waits(last, clock=lambda: next(times))
    looks: list[int] = []
    try_start = last.try_start
    monkeypatch.setattr(last, "try_start", lambda *given, **named: looks.append(1) or try_start(*given, **named))
    assert [turn.has_come() or len(looks) for _ in range(6)] == [1, 1, 1, 1, 2, 2]
    first.hand_over()  # as if it had been killed: its file stays
    assert turn.has_come()
    last.close()


def test_a_stopped_process_that_keeps_the_queue_is_waited_for(tmp_path: Path) -> None:
    """It is named once, after ten seconds; tickets are drawn as ever, and nobody waits for the queue for long."""
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
        reported: list[str] = []
        times = itertools.count(step=6)
        turn = waits(ticket, report=reported.append, clock=lambda: next(times))
        assert [turn.has_come() for _ in range(5)] == [False] * 5
        (message,) = reported
        assert f"process {keeper.pid} (" in message
        assert f"which is stopped; `kill -CONT {keeper.pid}` lets it go on" in message
        os.kill(keeper.pid, signal.SIGCONT)
        keeper.wait()
        assert turn.has_come()
    ticket.close()


def remove_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def remove_files(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.parametrize("remove", [remove_folder, remove_files])
def test_a_removed_queue_is_made_again(tmp_path: Path, remove: Callable[[Path], None]) -> None:
    """Those that run count again, and those that wait keep their order; they let the others come back first."""
    folder = tmp_path / "queue"
    folder.mkdir()
    running, second, third = (Ticket(name, folder=folder, now_ns=n) for n, name in enumerate("abc"))
    assert running.try_start(1) == []
    now = [0.0]
    turns = [waits(ticket, clock=lambda: now[0]) for ticket in (second, third)]
    remove(folder)
    assert [turn.has_come() for turn in turns * 2] == [False] * 4, "the running job may not be back"
    assert running.restore()
    assert not running.restore()
    assert live_job_ids(folder) == ["a", "b", "c"]
    now[0] = RESTORED_S
    assert [turn.has_come() for turn in turns] == [False, False]
    running.close()
    assert [turn.has_come() for turn in reversed(turns)] == [False, True]
    for ticket in (second, third):
        ticket.close()
    assert live_job_ids(folder) == []


def test_a_closed_ticket_is_not_made_again(tmp_path: Path) -> None:
    ticket = Ticket("a", folder=tmp_path)
    ticket.close()
    assert not ticket.restore()
    assert live_job_ids(tmp_path) == []


def test_a_queue_that_cannot_be_used_is_tried_again(tmp_path: Path) -> None:
    """What is wrong is reported once; as soon as it has passed, the job runs."""
    folder = tmp_path / "queue"
    folder.mkdir()
    ticket = Ticket("a", folder=folder)
    reported: list[str] = []
    times = itertools.count(step=10)
    turn = waits(ticket, report=reported.append, clock=lambda: next(times))
    shutil.rmtree(folder)
    folder.write_text("in the way")
    assert [turn.has_come() for _ in range(3)] == [False] * 3
    (message,) = reported
    assert message.startswith("waiting for the queue, which is tried again: ")
    folder.unlink()
    assert [turn.has_come() for _ in range(2)] == [False, True]
    ticket.close()


def test_a_full_disk_does_not_fail_a_job_that_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticket = Ticket("a", folder=tmp_path)
    reported: list[str] = []
    times = itertools.count(step=10)
    turn = waits(ticket, report=reported.append, clock=lambda: next(times))

    def full(fd: int, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("trainkit.runners.slots.write_all", full)
        assert [turn.has_come() for _ in range(3)] == [False] * 3
    (message,) = reported
    assert "No space left on device" in message
    assert turn.has_come()
    ticket.close()


def test_a_queue_without_room_refuses_a_new_job(tmp_path: Path) -> None:
    """The message names the folder, and the variable that chooses another one."""
    (tmp_path / "queue").write_text("in the way")
    with pytest.raises(
        RunnerError, match="the folder of the queue, .*queue.* set TRAINKIT_QUEUE to another folder"
    ):
        Ticket("a", folder=tmp_path / "queue")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_does_not_give_up_the_place(tmp_path: Path) -> None:
    ticket = Ticket("a", folder=tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads that other tests have left
        child = os.fork()
    if child == 0:
        try:
            ticket.close()
            ticket.restore()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert live_job_ids(tmp_path) == ["a"]
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
