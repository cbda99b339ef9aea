"""Odd values that training code hands over: converted exactly, or refused; the job stays controllable."""

from __future__ import annotations

import contextlib
import math
import tempfile
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import trainkit as tk
from trainkit.errors import OptionError
from trainkit.files.record import Record, Status, decode, encode, repair
from trainkit.files.recorder import Recorder
from trainkit.files.scalars import MOST, whole_number
from trainkit.files.store import Store
from trainkit.training.run import Run


class Raises:
    """Whatever it is asked for, it raises."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def _raise(self, *_: object) -> Any:
        raise self.error

    __float__ = __int__ = __index__ = __len__ = __str__ = __repr__ = __iter__ = __array__ = item = _raise


class Text(str):
    """A text of a class of its own, which JSON encoders refuse."""

    def __str__(self) -> str:
        return self


ODD = [
    None,
    True,
    0,
    -1,
    3,
    2**63,
    2**70,
    -(2**70),
    10**5000,
    0.5,
    3.0,
    -0.0,
    math.nan,
    math.inf,
    -math.inf,
    1e300,
    "",
    "3",
    "NaN",
    "a\ud800b",
    Text("text"),
    b"bytes",
    1j,
    Decimal("3"),
    Fraction(1, 3),
    [1],
    (),
    {},
    {"a": 1},
    {1, 2},
    len,
    object,
    Raises(ValueError("no")),
    Raises(RuntimeError()),
    Raises(SystemExit(1)),
    Status.RUNNING,
    np.int64(3),
    np.uint64(2**64 - 1),
    np.float32(0.5),
    np.float64(math.nan),
    np.bool_(True),
    np.str_("train"),
    np.array(3),
    np.array([3]),
    np.array([1, 2]),
    np.array([], float),
    np.array(["a"]),
    np.array(None),
    np.array({}, object),
    np.datetime64("2026-01-01"),
    np.complex64(1),
    torch.tensor(3),
    torch.tensor(0.5),
    torch.tensor([3]),
    torch.zeros(2),
    torch.tensor(True),
    torch.tensor(1j),
    torch.tensor(3, dtype=torch.uint8),
    torch.tensor(2.0, dtype=torch.bfloat16),
    torch.empty((), device="meta"),
    torch.zeros(0),
]


def _name(run: Run, value: Any) -> None:
    run.log({value: 1.0})


CALLS: dict[str, Callable[[Run, Any], object]] = {
    "total_steps": lambda run, value: setattr(run, "total_steps", value),
    "epochs": lambda run, value: next(iter(run.epochs(value)), None),
    "batches": lambda run, value: next(iter(run.batches(value)), None),
    "phase of batches": lambda run, value: next(iter(run.batches([1], phase=value)), None),
    "log": lambda run, value: run.log(loss=value, more=1.0),
    "name of a metric": _name,
    "log mapping": lambda run, value: run.log(value),
    "step": lambda run, value: run.log(loss=1.0, step=value),
    "message": lambda run, value: run.message(value),
    "warn": lambda run, value: run.warn(value),
    "update_params": lambda run, value: run.update_params(lr=value),
    "best": lambda run, value: run.best(value),
    "mode": lambda run, value: run.best("loss", value),
    "checkpoint steps": lambda run, value: run.checkpoint_every(steps=value),
    "checkpoint seconds": lambda run, value: run.checkpoint_every(seconds=value),
    "checkpoint keep": lambda run, value: run.checkpoint_every(keep=value),
    "end_early": lambda run, value: run.end_early(value),
    "message of the end": lambda run, value: run.end_early("time_limit", value),
    "phase": lambda run, value: run.phase(value).__enter__(),
    "track": lambda run, value: run.track(model=value),
    "set step": lambda run, value: setattr(run, "step", value),
    "set epoch": lambda run, value: setattr(run, "epoch", value),
    "set name": lambda run, value: setattr(run, "name", value),
    "set job_id": lambda run, value: setattr(run, "job_id", value),
    "set params": lambda run, value: setattr(run, "params", value),
}


@contextlib.contextmanager
def a_run(folder: Path, **fields: Any) -> Iterator[tuple[Run, Recorder]]:
    """A run of a job that no thread writes: its rounds are made by hand."""
    store = Store(folder)
    record = Record(job_id="a", name="a", status=Status.RUNNING, runner="thread", **fields)
    lock = store.create(record)
    seconds = iter(range(10**9))
    recorder = Recorder(store, record, ticks=lambda: float(next(seconds)))
    run = Run(recorder, {})
    recorder.before_refresh, recorder.on_request = run.report, run.control.receive
    try:
        yield run, recorder
    finally:
        recorder.detach()
        lock.close()


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(calls=st.lists(st.tuples(st.sampled_from(sorted(CALLS)), st.sampled_from(ODD)), min_size=1, max_size=6))
def test_whatever_training_code_does_the_job_can_be_read_and_stopped(calls: list[tuple[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder, a_run(Path(folder)) as (run, recorder):
        faults = []

        def train() -> None:  # not in the main thread, where an interrupt is the user's
            for name, value in calls:
                try:
                    CALLS[name](run, value)
                except BaseException as error:  # noqa: BLE001 - all that a test raises, and StopRun
                    faults.append(error)

        thread = threading.Thread(target=train)
        thread.start()
        thread.join()
        recorder.metrics.pending.append((1, 1, 0.0, {"alive": 1.0}))
        recorder.tick()
        recorder.store.request("a", "stop")
        recorder.tick()
        found = recorder.store.read("a")
        assert found.status is Status.STOPPING
        assert found.metrics["alive"] == 1.0
        assert not recorder.warns_of("fault: writing metrics")
        assert not any(name.startswith(("fault:", "the record cannot")) for name in recorder._complained)


@pytest.mark.parametrize(
    "value",
    [
        3,
        3.0,
        np.int64(3),
        np.uint8(3),
        np.float32(3),
        np.array(3),
        torch.tensor(3),
        torch.tensor(3.0, dtype=torch.float16),
        Decimal(3),
        Fraction(3),
    ],
)
def test_whole_numbers_of_any_kind_are_taken(tmp_path: Path, value: Any) -> None:
    with a_run(tmp_path) as (run, recorder):
        run.total_steps = value
        assert list(run.epochs(value)) == [0, 1, 2]
        run.log(loss=1.0, step=value)
        recorder.tick()
        found = recorder.store.read("a")
        assert (found.total_steps, found.epochs) == (3, 3)
        assert [type(each) for each in (run.total_steps, found.epochs)] == [int, int]


@pytest.mark.parametrize(
    "value",
    [
        True,
        np.bool_(True),
        torch.tensor(True),
        2.5,
        -1,
        2**63,
        math.nan,
        math.inf,
        "3",
        None,
        b"3",
        [3],
        3j,
        np.float64(0.1),
        torch.tensor(0.1),
        torch.zeros(2),
        np.array([1, 2]),
        Raises(KeyError("x")),
    ],
)
def test_other_numbers_are_refused_where_they_are_given(tmp_path: Path, value: Any) -> None:
    with a_run(tmp_path) as (run, recorder):
        refused = [
            lambda: run.epochs(value),
            lambda: run.checkpoint_every(steps=value) if value is not None else whole_number(value, "steps"),
        ]
        if value is not None:
            refused.append(lambda: setattr(run, "total_steps", value))
        for call in refused:
            with pytest.raises(OptionError, match="expected a whole number"):
                call()
        assert run.total_steps is None
        recorder.tick()
        assert recorder.store.read("a").epochs is None


def test_the_largest_number_is_taken_and_endless_epochs_tell_no_total(tmp_path: Path) -> None:
    with a_run(tmp_path) as (run, recorder):
        assert next(run.epochs(MOST)) == 0
        assert next(run.batches([1, 2])) == 1
        assert run.total_steps is None
        recorder.tick()
        assert recorder.store.read("a").epochs == MOST


@pytest.mark.parametrize("field", [name for name in Record.__struct_fields__ if name != "schema_version"])
def test_a_field_of_a_wrong_type_never_reaches_the_file(tmp_path: Path, field: str) -> None:
    """The second line: a value that no reader could read is replaced by the one before, with a warning."""
    with a_run(tmp_path, message="before") as (_, recorder):
        recorder.before_refresh = lambda: None
        recorder.tick()
        before = getattr(recorder.record, field)
        for odd in (np.int64(3), object(), Raises(ValueError()), {"a": object()}, Text("a"), [[[[]]]]):
            setattr(recorder.record, field, odd)
            recorder.tick()
            found = recorder.store.read("a")
            if field not in ("updated_at", "heartbeat_at", "throughput"):  # the recorder's own at every round
                assert getattr(found, field) == before
            assert found.job_id == "a"
        assert "the record cannot hold this value of" in " ".join(recorder._complained)


def test_repair_names_what_it_changed() -> None:
    record, sound = (Record(job_id="a", name="a", status=Status.RUNNING, step=3) for _ in range(2))
    record.step, record.message, record.epoch = 4, 5, 6  # type: ignore[assignment]
    assert repair(record, sound) == ["message (int)"]
    assert (record.step, record.message, record.epoch) == (4, "", 6)
    assert decode(encode(record)) == record


class OnAccelerator(torch.Tensor):
    """A tensor that says it is on a device other than the CPU and CUDA, as those of mps and xpu do."""

    is_cpu = property(lambda self: False)  # type: ignore[assignment]
    is_cuda = property(lambda self: False)  # type: ignore[assignment]


def on_accelerator(value: float) -> torch.Tensor:
    """Return a number on such a device."""
    return torch.tensor(value).as_subclass(OnAccelerator)


@pytest.mark.parametrize("within_epochs", [True, False])
def test_patience_reads_tensors_of_any_device(root: Path, within_epochs: bool) -> None:
    """A loss on a device counts as the number that it is: the run ends two epochs, or values, after the best."""

    def fit(run: Any) -> None:
        for value in run.epochs(9) if within_epochs else range(9):
            run.log(val_loss=on_accelerator(abs(value - 3) + 1.0))

    job = tk.submit(fit, patience=2)
    job.wait()
    assert job.record.message == f"val_loss has not improved since {'epoch' if within_epochs else 'value'} 4"
    assert job.metrics()["val_loss"].tolist()[:6] == [4.0, 3.0, 2.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    "odd", ["n/a", None, torch.zeros(2), np.zeros(3), [1.0], Raises(ZeroDivisionError("0 of 0")), 1j]
)
def test_patience_passes_over_what_the_log_leaves_out(root: Path, odd: Any) -> None:
    def fit(run: Any) -> str:
        for epoch in run.epochs(4):
            run.log(val_loss=odd if epoch in (1, 3) else 2.0 - epoch / 2, more=1.0)
        return "done"

    job = tk.submit(fit, patience=3)
    assert job.result() == "done"
    assert job.metrics()["val_loss"].dropna().tolist() == [2.0, 1.0]
    assert [text[:22] for text in job.warnings()] == ["run.log(val_loss=...) "]


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError("division by zero"),
        RuntimeError(),
        KeyboardInterrupt(),
        SystemExit(3),
        GeneratorExit(),
        Raises(ValueError()),
    ],
)
@pytest.mark.parametrize("method", ["__float__", "item", "__array__", "is_cpu", "numel"])
def test_a_metric_that_raises_is_left_out(root: Path, method: str, error: Any) -> None:
    """An empty average, or a metric of another library: the other metrics and the job go on."""
    raised = error if isinstance(error, BaseException) else type("Odd", (Exception,), {"__str__": Raises._raise})()

    def fail(self: object, *_: object) -> Any:
        raise raised

    metric = type(
        "Meter", (), {method: property(fail) if method == "is_cpu" else fail, "size": 1, "error": raised}
    )()

    def fit(run: Any) -> str:
        for step in range(3):
            run.log(loss=float(step), accuracy=metric)
        run.log(accuracy=0.5)
        return "done"

    job = tk.submit(fit)
    assert job.result() == "done"
    assert job.metrics()["loss"].dropna().tolist() == [0.0, 1.0, 2.0]
    assert job.metrics()["accuracy"].dropna().tolist() == [0.5]
    assert len(job.warnings()) == 1
    assert job.warnings()[0].startswith("run.log(accuracy=...) got Meter, which")


def test_an_object_is_logged_as_it_was(root: Path) -> None:
    """A meter that is emptied after it was logged does not change what was logged."""

    class Meter:
        value = 0.25

        def __float__(self) -> float:
            return self.value

    def fit(run: Any) -> None:
        meter = Meter()
        run.log(accuracy=meter)
        meter.value = 0.0

    job = tk.submit(fit)
    job.result()
    assert job.metrics()["accuracy"].tolist() == [0.25]
