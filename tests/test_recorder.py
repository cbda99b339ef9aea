"""What the recorder works out by itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
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


def test_a_loop_that_only_logs_does_not_keep_requests_waiting(root: Path) -> None:
    """Lines that come as fast as they are written end no round: the requests after them are read."""

    class NeverEmpty(deque[tuple[int, int, float, Mapping[str, float]]]):
        taken = 0

        def popleft(self) -> tuple[int, int, float, Mapping[str, float]]:
            self.taken += 1
            assert self.taken < 100_000, "one round never came to its end"
            self.append((self.taken, 1, 0.0, {"loss": 1.0}))
            return super().popleft()

    store = Store(root)
    record = Record(job_id="a", name="a", status=Status.RUNNING, runner="thread")
    lock = store.create(record)
    recorder = Recorder(store, record)
    asked: list[str] = []
    recorder.on_request = lambda request: asked.append(request["action"])
    recorder.pending = NeverEmpty([(0, 1, 0.0, {"loss": 1.0})] * 10_000)
    recorder.tick()
    store.request("a", "stop")
    recorder.tick()
    assert asked == ["stop"]
    assert record.metrics == {"loss": 1.0}
    recorder.detach()
    lock.close()
