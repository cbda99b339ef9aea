"""The clock is set back or forward while a job runs: no time is negative, nothing is late, processes are known."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import torch

from trainkit.api import view
from trainkit.files import owners
from trainkit.files.record import Record, Status
from trainkit.files.recorder import Recorder
from trainkit.files.store import Store
from trainkit.training.run import Run

HOUR_S = 3600.0


@pytest.fixture
def clock_was_set(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Set the clock of the machine by so many seconds: start times that are computed from it move with it."""
    created = psutil.Process.create_time

    def set_by(seconds: float) -> None:
        monkeypatch.setattr(psutil.Process, "create_time", lambda process: created(process) + seconds)

    return set_by


@pytest.fixture
def child() -> Iterator[int]:
    """A process that waits."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.kill()


@pytest.mark.skipif(
    sys.platform != "linux", reason="the system does not tell when a process started since the boot"
)
@pytest.mark.parametrize("seconds", [-HOUR_S, -5.0, 5.0, HOUR_S, 1e9])
def test_a_process_is_known_whatever_the_clock_says(clock_was_set: Any, child: int, seconds: float) -> None:
    identity = owners.process(child)
    clock_was_set(seconds)
    assert owners.is_running(identity) is True
    assert owners.is_running(msgspec.json.decode(msgspec.json.encode(identity), type=owners.Process)) is True


def test_another_process_of_the_same_pid_is_another(child: int) -> None:
    identity = owners.process(child)
    assert identity.start_ticks is not None or sys.platform != "linux"
    later = msgspec.structs.replace(identity, start_ticks=(identity.start_ticks or 0) - 100, started_at=1.0)
    assert owners.is_running(later) is False


def test_an_identity_of_an_older_version_is_compared_as_before(child: int) -> None:
    older = msgspec.json.encode(msgspec.structs.replace(owners.process(child), start_ticks=None))
    identity = msgspec.json.decode(older.replace(b',"start_ticks":null', b""), type=owners.Process)
    assert owners.is_running(identity) is True
    assert owners.is_running(msgspec.structs.replace(identity, started_at=identity.started_at - 60)) is False


@pytest.mark.parametrize("status", [Status.RUNNING, Status.COMPLETED])
def test_no_time_is_shown_negative(status: Status) -> None:
    record = Record(
        job_id="a",
        name="a",
        status=status,
        started_at=5000.0,
        finished_at=1000.0,
        heartbeat_at=900.0,
        runner="thread",
    )
    facts = dict(view.view(record, now=100.0).facts)
    assert "0.0 s" in facts.values()
    assert "-" not in " ".join(facts.values())


@pytest.mark.parametrize("step_s", [-10 * HOUR_S, -60.0, 60.0, 10 * HOUR_S])
def test_the_record_is_refreshed_and_checkpoints_are_due_as_before(root: Path, step_s: float) -> None:
    """Heartbeat, speed and checkpoints go by seconds that never go back."""
    store = Store(root)
    record = Record(job_id="a", name="a", status=Status.RUNNING, runner="thread")
    lock = store.create(record)
    unix, ticks = [1e9], [50.0]
    recorder = Recorder(store, record, clock=lambda: unix[0], ticks=lambda: ticks[0])
    run = Run(recorder, {})
    recorder.before_refresh = run.report
    run.track(model=torch.nn.Linear(1, 1))
    heartbeats, saved = [], []
    for _ in run.batches(range(200)):
        if run.step == 100:
            unix[0] += step_s
        unix[0] += 0.25
        ticks[0] += 0.25
        recorder.tick()
        found = store.read("a")
        assert found.step == run.step
        if run.step > 10:
            assert found.throughput is not None
            assert found.throughput.steps_per_s == pytest.approx(4.0)
        heartbeats.append(found.heartbeat_at)
        if found.checkpoint is not None and found.checkpoint.step not in saved:
            saved.append(found.checkpoint.step)
    recorder.detach()
    lock.close()
    assert len(set(heartbeats)) > 190
    assert saved == pytest.approx([40, 80, 120, 160], abs=4)
