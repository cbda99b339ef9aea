"""What the recorder works out by itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path

import pytest

from trainkit.files.record import Record, Status
from trainkit.files.recorder import Recorder
from trainkit.files.scalars import OnDevice, fetched
from trainkit.files.store import Store
from trainkit.files.streams import tail
from trainkit.training.run import Run


def test_speed_is_that_of_the_steps_not_of_the_loading_or_a_pause_before_them(root: Path) -> None:
    store = Store(root)
    record = Record(job_id="a", name="a", status=Status.RUNNING, runner="thread")
    lock = store.create(record)
    now = 1000.0
    recorder = Recorder(store, record, clock=lambda: now, ticks=lambda: now)
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
    recorder.metrics.pending = NeverEmpty([(0, 1, 0.0, {"loss": 1.0})] * 10_000)
    recorder.tick()
    store.request("a", "stop")
    recorder.tick()
    assert asked == ["stop"]
    assert record.metrics == {"loss": 1.0}
    recorder.detach()
    lock.close()


def test_lines_are_strict_whatever_is_logged(root: Path) -> None:
    """Numbers of many kinds become floats, what is not finite its word, and a name that is taken another."""
    store = Store(root)
    record = Record(job_id="a", name="a", status=Status.RUNNING, runner="thread")
    lock = store.create(record)
    recorder = Recorder(store, record)
    odd = {"loss": float("nan"), "hits": 3, "step": 7.5, "name": "text", "null": 1.0}
    recorder.metrics.pending += [
        (1, 1, 10.0, {"loss": 0.5, "lr": 1e-3}),
        (2, 1, 11.0, odd),
        (3, 1, 12.0, {"loss": 0.25}),
    ]
    recorder.tick()
    recorder.detach()
    lock.close()
    lines = store.paths("a").metrics.read_text().splitlines()
    assert lines == [
        '{"attempt":1,"epoch":1,"step":1,"time":10.0,"loss":0.5,"lr":0.001}',
        '{"attempt":1,"epoch":1,"step":2,"time":11.0,"loss":"NaN","hits":3.0,"step_":7.5,"null":1.0}',
        '{"attempt":1,"epoch":1,"step":3,"time":12.0,"loss":0.25}',
    ]
    assert record.metrics == {"loss": 0.25, "lr": 1e-3, "hits": 3.0, "step_": 7.5, "null": 1.0}
    assert record.loss == 0.25
    warnings = [event["message"] for event in tail(store.paths("a").events)[0]]
    assert [text[:21] for text in warnings] == [
        "run.log(name=...) got",
        "run.log(step=...): th",
    ]


def test_a_tensor_is_logged_as_it_was(root: Path) -> None:
    """What the training code does with a tensor or an array after `run.log` does not change what was logged."""
    import numpy as np
    import torch

    store = Store(root)
    record = Record(job_id="a", name="a", status=Status.RUNNING, runner="thread")
    lock = store.create(record)
    recorder = Recorder(store, record)
    loss, array = torch.tensor([0.5], requires_grad=True), np.array([0.25])
    run = Run(recorder, {})
    run.log(loss=loss, array=array, many=torch.zeros(3))
    with torch.no_grad():
        loss += 1
    array += 1
    recorder.tick()
    recorder.detach()
    lock.close()
    assert record.metrics == {"loss": 0.5, "array": 0.25}


def test_what_a_device_computes_is_fetched_in_one_piece_for_each_kind() -> None:
    """Numbers of several kinds come back each to its own; here the device is the CPU."""
    import torch

    whole, half, loss = (OnDevice(torch.tensor(*each)) for each in ((3,), (0.5,), ([0.25],)))
    assert fetched([whole, half, loss]) == {id(whole): 3, id(half): 0.5, id(loss): 0.25}
    assert fetched([]) == {}
