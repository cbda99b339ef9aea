"""Loaders whose length raises or lies, and loops that get no batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import trainkit as tk
from trainkit.files.record import Record, Status
from trainkit.files.recorder import SilentRecorder
from trainkit.files.scalars import MOST
from trainkit.files.store import Store
from trainkit.training.run import Run
from trainkit.watching.gradients import GradientNorm


class Loader:
    """Ten batches, and a length of the test's choice."""

    def __init__(self, length: Any) -> None:
        self.length = length

    def __iter__(self) -> Iterator[int]:
        return iter(range(10))

    def __len__(self) -> int:
        if isinstance(self.length, BaseException):
            raise self.length
        return self.length  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "length",
    [
        NotImplementedError(),
        TypeError("x"),
        RuntimeError(),
        AttributeError(),
        ValueError(),
        KeyError(),
        OSError(),
        RecursionError(),
        -1,
        2.5,
        10.0,
        "10",
        None,
        2**64,
        MOST,
        0,
        1,
        3,
        10,
        11,
        1000,
    ],
)
def test_lengths_that_raise_or_lie_end_nothing(tmp_path: Path, length: Any) -> None:
    """Progress is never more than what was done, and later the steps that were made count."""
    recorder = SilentRecorder(Store(tmp_path), Record(job_id="a", name="a", status=Status.RUNNING))
    run, shown = Run(recorder, {}), []
    for epoch in run.epochs(4):
        for _ in run.batches(Loader(length)):
            run.report()
            shown.append(recorder.record.progress)
            assert shown[-1] < 100 or run.step == 40 or (epoch == 0 and length in (1, 3))
    by_steps = [100 * step / 40 for step in range(11, 41)]
    by_epochs = [25.0 * epoch for epoch in (1, 2, 3) for _ in range(10)]
    counts = type(length) is int and 0 < length <= MOST
    assert shown[10:] == pytest.approx(by_steps if counts else by_epochs, abs=0.01)


def test_an_honest_length_is_believed_from_the_first_step(tmp_path: Path) -> None:
    run = Run(SilentRecorder(Store(tmp_path), Record(job_id="a", name="a", status=Status.RUNNING)), {})
    for _ in run.epochs(4):
        for _ in run.batches(Loader(10)):
            assert run.total_steps == 40


class Secretive:
    """Batches whose every other attribute raises: such as a wrapper that forwards to what is not open yet."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"{name}: not open")

    def __iter__(self) -> Iterator[int]:
        return iter(range(3))


def test_a_loader_whose_attributes_raise_is_used_for_its_batches(root: Path) -> None:
    def fit(run: Any) -> None:
        for _ in run.epochs(2):
            for _ in run.batches(Secretive()):
                run.log(loss=1.0)
            for _ in run.batches(Secretive(), phase="validating"):
                pass

    job = tk.submit(fit)
    job.result()
    assert (job.record.step, job.warnings()) == (6, [])


class Parts:
    """Something with a state whose parameters cannot be had."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass

    def parameters(self, group: str) -> Any:
        raise AssertionError("nobody names a group")


def test_what_has_no_gradients_to_look_at_is_tracked_all_the_same() -> None:
    norm = GradientNorm(lambda: None)
    norm.begin()
    norm.take([Parts()], step=1)
    assert norm.collect() is None
    assert not norm.wanted


def _used_up(run: Any) -> None:
    batches = iter(range(4))
    for _ in run.epochs(3):
        for _ in run.batches(batches):
            run.log(loss=1.0)


def _zipped(run: Any) -> None:
    pairs = zip([1], [2], strict=True)
    for _ in run.epochs(2):
        for _ in run.batches(pairs):
            run.log(loss=1.0)


def _too_few_rows(run: Any) -> None:
    loader = torch.utils.data.DataLoader(torch.zeros(5, 1), batch_size=8, drop_last=True)
    for _ in run.epochs(2):
        for _ in run.batches(loader):
            run.log(loss=1.0)


def _nested(run: Any) -> None:
    for _ in run.epochs(2):
        for _ in run.batches([1, 2]):
            for _ in run.batches([]):
                run.log(loss=1.0)


def _no_epochs(run: Any) -> None:
    for _ in run.batches([]):
        run.log(loss=1.0)


def _validation(run: Any) -> None:
    held_out = iter([1])
    for _ in run.epochs(2):
        for _ in run.batches([1]):
            run.log(loss=1.0)
        for _ in run.batches(held_out, phase="validating"):
            run.log(val_loss=1.0)


@pytest.mark.parametrize(
    ("fit", "says", "advises"),
    [
        (_used_up, "its range_iterator in epoch 2, so nothing was trained", "an iterator can be used only once"),
        (_zipped, "its zip in epoch 2, so nothing was trained", "an iterator can be used only once"),
        (_too_few_rows, "its DataLoader in epoch 1, so nothing was trained", "5 of batch_size=8 rows"),
        (_nested, "its list in epoch 1, so nothing was trained", "not empty"),
        (_no_epochs, "its list, so nothing was trained", "not empty"),
        (
            _validation,
            "its list_iterator in epoch 2, so nothing was validated",
            "an iterator can be used only once",
        ),
    ],
)
def test_a_loop_without_a_batch_is_warned_of_once(
    root: Path, fit: Callable[[Any], None], says: str, advises: str
) -> None:
    job = tk.submit(fit)
    job.result()
    (warning,) = job.warnings()
    assert warning.startswith(f"run.batches got no batch from {says}")
    assert advises in warning


def test_loops_that_are_passed_over_on_the_way_back_are_not_called_empty(root: Path) -> None:
    """A resumed attempt comes by loops that it has done already, and gets none of their batches again."""

    def fit(run: Any) -> None:
        run.track(model=torch.nn.Linear(1, 1))
        for _ in run.epochs(2):
            for _ in run.batches([1, 2]):
                pass
        for _ in run.epochs(2):
            for _ in run.batches([1, 2]):
                pass
            for _ in run.batches([1, 2]):
                if run.step == 8 and run._recorder.record.attempt == 1:
                    run.save_now()
                    raise KeyError("cut")

    job = tk.submit(fit)
    assert job.wait() is Status.FAILED
    job.resume()
    assert job.wait() is Status.COMPLETED
    assert job.record.step == 12
    assert not [text for text in job.warnings() if "no batch" in text]
