"""What the recorder works out by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainkit.record import Record, Status
from trainkit.recorder import Recorder
from trainkit.store import Store


def test_speed_is_that_of_the_steps_not_of_the_loading_or_a_pause_before_them(root: Path) -> None:
    store = Store(root)
    record = Record(job_id="a", name="a", status=Status.RUNNING, runner="thread")
    lock = store.create(record)
    now = 1000.0
    recorder = Recorder(store, record, clock=lambda: now)
    try:
        for wait_s in (30, 40):
            for _ in range(wait_s):
                now += 1.0
                recorder.tick()
            for _ in range(3):
                now += 1.0
                record.step += 4
                recorder.tick()
            assert record.throughput is not None
            assert record.throughput.steps_per_s == pytest.approx(4.0)
    finally:
        recorder.detach()
        lock.close()
