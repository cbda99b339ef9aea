"""Never RUNNING when dead for more than a second, never dead when alive, and one owner at a time."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import trainkit as tk
from trainkit.files.record import Status

HERE = Path(__file__).parent
#: Dozens of processes each: what takes seconds here takes minutes on a busy machine.
pytestmark = pytest.mark.timeout(300)


def run(harness: str, *arguments: object) -> dict[str, Any]:
    """Run a harness and return what it counted."""
    command = [sys.executable, str(HERE / harness), *map(str, arguments)]
    out = subprocess.run(command, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert out.stderr == "", "nothing is printed by what must not notice"
    found: dict[str, Any] = json.loads(out.stdout)
    print(arguments[0], found)
    return found


def test_whoever_is_dead_reads_so_within_a_second_and_nobody_else(tmp_path: Path) -> None:
    """Seven ways to die, five to seem dead, pids used again, other boots, hosts and pid namespaces."""
    found = run("deaths.py", "trainkit", 4, 2, tmp_path)
    assert found["seen"]["deaths"] >= 4 * 7 + 3
    assert found["seen"]["looks at the living"] > 50
    assert found["wrong"] == {}


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_minute_without_a_sign_of_life_is_no_death(tmp_path: Path) -> None:
    """SIGSTOP and a held GIL for a minute; 350 deaths."""
    found = run("deaths.py", "trainkit", 50, 60, tmp_path)
    assert found["wrong"] == {}


@pytest.mark.parametrize(
    ("reader", "rounds", "lie"),
    [("pids", 1, "RUNNING when dead: zombie"), ("heartbeats", 0, "dead when alive: SIGSTOP")],
)
def test_the_harness_finds_readers_that_guess(tmp_path: Path, reader: str, rounds: int, lie: str) -> None:
    """It fails a reader that trusts pids and one that trusts heartbeats."""
    assert run("deaths.py", reader, rounds, 1.5, tmp_path)["wrong"][lie] > 0


def test_a_fork_at_any_instant_keeps_no_lock(tmp_path: Path) -> None:
    """100 forks while two threads take and ask a lock: no child keeps it, none closes what is not its own."""
    assert run("fork_window.py", "trainkit", 100, tmp_path) == {"forks": 100, "kept": 0}


def test_the_harness_finds_locks_that_a_fork_can_come_between(tmp_path: Path) -> None:
    """It fails the locks as they once were."""
    found = subprocess.run(
        [sys.executable, str(HERE / "fork_window.py"), "unguarded", "300", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert json.loads(found.stdout)["kept"] > 0


def test_one_of_four_resumes(tmp_path: Path) -> None:
    """Six times four processes resume one job: one wins, and its attempt is the only one."""
    found = run("resume_race.py", "trainkit", 6, tmp_path)
    assert (found["not one winner"], found["not one attempt"], found["errors"]) == (0, 0, 0)
    assert found["refused"] == 3 * 6


@pytest.mark.long
@pytest.mark.timeout(900)
def test_one_of_four_resumes_many_times(tmp_path: Path) -> None:
    """300 times."""
    found = run("resume_race.py", "trainkit", 300, tmp_path)
    assert (found["not one winner"], found["not one attempt"], found["errors"]) == (0, 0, 0)


def test_the_harness_finds_racers_without_a_lock(tmp_path: Path) -> None:
    """It fails those that look first and begin then."""
    assert run("resume_race.py", "unlocked", 3, tmp_path)["not one winner"] > 0


def truth_of(found: dict[str, Any]) -> tuple[int, ...]:
    """How often a reader was told what is not so, and how often somebody was left."""
    lies = ("RUNNING when dead", "dead when alive", "dead, and alive again", "left behind")
    return tuple(found.get(lie, 0) for lie in lies)


@pytest.mark.parametrize("whom", ["supervisor", "worker"])
def test_a_job_whose_process_is_killed_at_any_instant(tmp_path: Path, whom: str) -> None:
    """Three kills from the launch on: never dead and alive again, never RUNNING when dead, nobody left."""
    found = run("kill_job.py", "trainkit", whom, 3, tmp_path)
    assert found["kills"] >= 2
    assert truth_of(found) == (0, 0, 0, 0)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("whom", ["supervisor", "worker"])
def test_many_jobs_whose_process_is_killed_at_any_instant(tmp_path: Path, whom: str) -> None:
    """100 kills."""
    assert truth_of(run("kill_job.py", "trainkit", whom, 100, tmp_path)) == (0, 0, 0, 0)


def test_the_harness_finds_a_reader_that_asks_the_supervisor_only(tmp_path: Path) -> None:
    """It fails a reader for whom a job is dead whose worker goes on."""
    assert sum(truth_of(run("kill_job.py", "supervisor-only", "supervisor", 2, tmp_path))) > 0


@pytest.mark.timeout(300)
@pytest.mark.extended
def test_a_killed_server_ends_no_job(root: Path, tmp_path: Path, eventually: Callable[..., None]) -> None:
    """``trainkit serve`` is killed; the job that was started through it goes on, and can be stopped."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "trainkit", "serve", "--port", str(port), "--token", "t", "--root", str(root)]
    table = root / "table.csv"
    table.write_text("x,y\n" + "".join(f"{n % 7},{'ab'[n % 2]}\n" for n in range(2000)))
    address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return bool(urllib.request.urlopen(f"{address}/health", timeout=5).status == 200)
        except OSError:
            return False

    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        eventually(answers, within_s=120)
        body = {"data": "table.csv", "target": "y", "epochs": 1000, "patience": 1000}
        request = urllib.request.Request(
            f"{address}/api/train",
            data=json.dumps(body).encode(),
            headers={"Authorization": "token t", "Content-Type": "application/json"},
        )
        job = tk.attach(json.load(urllib.request.urlopen(request, timeout=60))["job_id"])
        eventually(lambda: job.record.step > 0, within_s=120)
    finally:
        server.kill()
        server.wait()
    at = job.record.step
    eventually(lambda: job.record.step > at)
    assert job.state is Status.RUNNING
    job.stop()
    assert job.wait(60) is Status.STOPPED
