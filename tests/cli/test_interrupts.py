"""Ctrl-C while a job is watched: real signals to real processes."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import trainkit as tk
from trainkit.files.record import Status

Started = Callable[..., "subprocess.Popen[str]"]
Eventually = Callable[..., None]


def steps(root: Path) -> bool:
    """Whether a job has begun to train."""
    return any(job.record.step > 0 for job in tk.jobs("RUNNING", root=root))


@pytest.mark.parametrize("runner", ["process", "thread"])
def test_ctrl_c_stops_and_saves_and_watches_until_it_ended(
    started: Started, root: Path, eventually: Eventually, runner: str
) -> None:
    process = started("submit", "training:fit", "epochs=1000", "pause_s=0.02", "--runner", runner)
    eventually(lambda: steps(root))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    record = tk.attach(root=root).record
    assert process.returncode == 3, err
    assert "stopping: it saves and ends after the current step; Ctrl-C again kills it" in out
    assert "■ fit  STOPPED" in out
    assert record.status is Status.STOPPED
    assert record.checkpoint is not None
    assert err == ""


def test_with_json_the_remark_goes_beside_the_json(started: Started, root: Path, eventually: Eventually) -> None:
    process = started("submit", "training:forever", "--json")
    eventually(lambda: steps(root))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    last = json.loads(out.splitlines()[-1])
    assert process.returncode == 3
    assert (last["status"], last["metrics"]["loss"]) == ("STOPPED", "NaN")
    assert "stopping" in err


def test_ctrl_c_twice_kills_a_process(started: Started, root: Path, eventually: Eventually) -> None:
    process = started("submit", "training:deaf")
    eventually(lambda: tk.jobs("RUNNING", root=root))
    job = tk.attach(root=root)
    process.send_signal(signal.SIGINT)
    eventually(lambda: job.state is Status.STOPPING)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert (job.state, job.record.message) == (Status.STOPPED, "killed on request")
    assert "■ deaf  STOPPED" in out


def test_ctrl_c_twice_ends_a_thread_together_with_the_command(
    started: Started, root: Path, eventually: Eventually
) -> None:
    process = started("submit", "training:deaf", "--runner", "thread")
    eventually(lambda: tk.jobs("RUNNING", root=root))
    job = tk.attach(root=root)
    process.send_signal(signal.SIGINT)
    eventually(lambda: job.state is Status.STOPPING)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "killed, together with this process" in out
    assert job.state is Status.INTERRUPTED


@pytest.mark.extended
def test_a_watcher_that_is_killed_does_not_hurt_the_job(
    started: Started, root: Path, eventually: Eventually
) -> None:
    process = started("submit", "training:fit", "epochs=1000", "pause_s=0.02")
    eventually(lambda: steps(root))
    process.kill()
    process.wait()
    job = tk.attach(root=root)
    step = job.record.step
    eventually(lambda: job.record.step > step + 5)
    assert job.state is Status.RUNNING
    job.kill()


def test_ctrl_c_while_looking_on_leaves_the_job_running(
    started: Started, root: Path, eventually: Eventually
) -> None:
    started("submit", "training:forever", "--detach").communicate(timeout=60)
    eventually(lambda: steps(root))
    job = tk.attach(root=root)
    process = started("watch", "--json")
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"forever goes on; trainkit stop {job.id} stops it" in err
    assert job.state is Status.RUNNING
    job.kill()


def test_a_reader_that_goes_away_ends_the_watching_without_a_word(
    started: Started, root: Path, eventually: Eventually
) -> None:
    process = started("submit", "training:fit", "epochs=1000", "pause_s=0.002")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(20) == 141
    assert process.stderr.read() == ""
    job = tk.attach(root=root)
    assert not job.done()
    job.kill()
