"""A job ends by itself when told: after a time, when it gets no better, and says so to whoever wants to know."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import trainkit as tk
from trainkit.errors import OptionError
from trainkit.files.record import EndedBy, Limits, Record, Status
from trainkit.files.recorder import Recorder
from trainkit.files.store import Store
from trainkit.training.control import Control
from trainkit.training.timelimit import TimeLimit

Eventually = Callable[..., None]


def endless(run: Any, step_s: float = 0.002, validate_s: float = 0.0) -> Any:
    """A loop of one epoch that no patience outlasts, with a validation behind it."""
    model = torch.nn.Linear(1, 1)
    run.track(model=model)
    for _ in run.epochs(1000):
        for _ in run.batches(range(10 if validate_s else 10_000_000)):
            time.sleep(step_s)
        for _ in run.batches(range(3), phase="validating"):
            time.sleep(validate_s)
        run.log(val_loss=0.25)
    return model


# --- the time ------------------------------------------------------------------------------------


def test_a_time_limit_finishes_a_long_epoch_with_a_usable_result(root: Path) -> None:
    """It ends at the next step, validates, returns and completes."""
    job = tk.submit(endless, max_time=0.4)
    assert isinstance(job.result(timeout=60), torch.nn.Linear)
    record = job.record
    assert (record.status, record.ended_by) == (Status.COMPLETED, EndedBy.TIME_LIMIT)
    assert record.message == "finished by its time limit of 0.4 s"
    assert record.metrics == {"val_loss": 0.25}
    assert job.paths.model.exists()
    assert 0.4 <= record.run_for_s < 10
    states = [event["status"] for event in job.events() if event["event"] == "state"]
    assert states == ["RUNNING", "STOPPING", "COMPLETED"]


def test_a_time_limit_that_falls_into_a_validation_lets_it_end(root: Path) -> None:
    """The result of a validation is wanted whole; no training step follows it."""
    job = tk.submit(endless, step_s=0.0, validate_s=0.3, max_time=0.4)
    job.result(timeout=60)
    assert job.record.ended_by is EndedBy.TIME_LIMIT
    assert job.record.step == 10
    assert job.metrics()["val_loss"].tolist() == [0.25]


def test_a_table_ends_by_its_time_limit(root: Path) -> None:
    job = tk.train(epochs=100_000, patience=100_000, max_time="1s")
    job.wait(60)
    assert (job.state, job.record.ended_by) == (Status.COMPLETED, EndedBy.TIME_LIMIT)
    assert tk.load_model(job.paths.model) is not None


def test_pauses_and_the_queue_do_not_count_and_attempts_add_up(root: Path) -> None:
    """The same clock through all states; no second is slept."""
    store = Store(root)
    record = Record(job_id="a", name="a", status=Status.QUEUED, runner="thread", limits=Limits(max_time_s=100.0))
    record.run_for_s = 60.0  # of an earlier attempt
    lock = store.create(record)
    recorder = Recorder(store, record)
    control = Control(recorder)
    limit = TimeLimit(recorder, control)
    now = 0.0

    def pass_seconds(seconds: int) -> None:
        nonlocal now
        for _ in range(seconds):
            limit.look(now)
            now += 1.0
        limit.look(now)

    try:
        pass_seconds(1000)  # in the queue
        recorder.change(Status.RUNNING)
        pass_seconds(20)
        recorder.change(Status.PAUSED)
        pass_seconds(1000)
        recorder.change(Status.RUNNING)
        pass_seconds(19)
        assert control.ending is None
        assert record.run_for_s == pytest.approx(99.0)
        pass_seconds(1)
        assert (control.ending, control.ended_by) == ("finish", EndedBy.TIME_LIMIT)
        assert record.status is Status.STOPPING
    finally:
        recorder.detach()
        lock.close()


def test_a_loop_that_ends_before_it_notices_its_limit_ran_to_its_end(root: Path) -> None:
    def fit(run: Any) -> int:
        for _ in run.epochs(1):
            pass
        while run.control.ending is None:
            time.sleep(0.01)
        return 7

    job = tk.submit(fit, max_time=0.2)
    assert job.result(timeout=60) == 7
    assert job.record.ended_by is EndedBy.EPOCHS


def test_a_bare_loop_is_stopped_by_its_limit(root: Path) -> None:
    """There is no loop that could end by itself, so the call that logs does not return."""

    def fit(run: Any) -> None:
        while True:
            run.log(loss=1.0)
            time.sleep(0.001)

    job = tk.submit(fit, max_time=0.2)
    assert job.wait(20) is Status.STOPPED
    assert (job.record.ended_by, job.record.message) == (EndedBy.TIME_LIMIT, "stopped by its time limit of 0.2 s")


# --- the patience --------------------------------------------------------------------------------

LOSSES = [1.0, 0.5, 0.6, 0.4, 0.45, 0.41, 0.43, 0.3, 0.1]


def by_epochs(run: Any, metric: str = "val_loss", mode: str = "min", sign: float = 1.0) -> None:
    if metric != "val_loss":
        run.best(metric, mode)
    for epoch in run.epochs(len(LOSSES)):
        for _ in run.batches(range(2)):
            run.log(loss=1.0)
        run.log(**{metric: sign * LOSSES[epoch]})


@pytest.mark.parametrize(("patience", "epochs"), [(1, 3), (2, 6), (3, 7), (9, 9)])
def test_patience_counts_epochs_without_improvement(root: Path, patience: int, epochs: int) -> None:
    job = tk.submit(by_epochs, patience=patience)
    assert job.wait(20) is Status.COMPLETED
    early = epochs < len(LOSSES)
    assert job.record.epoch == epochs
    assert job.record.ended_by is (EndedBy.EARLY_STOPPING if early else EndedBy.EPOCHS)
    if patience == 3:
        assert job.record.message == "val_loss has not improved since epoch 4"


def test_patience_looks_at_the_metric_that_best_names(root: Path) -> None:
    job = tk.submit(by_epochs, metric="score", mode="max", sign=-1.0, patience=3)
    assert job.wait(20) is Status.COMPLETED
    assert job.record.epoch == 7


def test_without_epochs_every_value_counts(root: Path) -> None:
    def fit(run: Any) -> int:
        for loss in run.batches(LOSSES):
            run.log(val_loss=loss)
        return int(run.step)

    job = tk.submit(fit, patience=3)
    assert job.result(20) == 7
    assert job.record.ended_by is EndedBy.EARLY_STOPPING


def test_patience_with_a_metric_that_is_never_logged_is_told(root: Path) -> None:
    def fit(run: Any) -> None:
        for _ in run.epochs(4):
            run.log(accuracy=1.0)

    job = tk.submit(fit, patience=2)
    job.result(20)
    (warning,) = [event for event in job.events() if event["event"] == "warning"]
    assert "'val_loss', which was not logged in 2 epochs" in warning["message"]
    assert "run.best" in warning["message"]


def test_a_resumed_run_keeps_its_patience(root: Path, eventually: Eventually) -> None:
    """Stopped two epochs after the best one, it goes on with one epoch of patience left, not with three."""

    def fit(run: Any, hold: str) -> None:
        run.track(model=torch.nn.Linear(1, 1))
        for epoch in run.epochs(len(LOSSES)):
            for _ in run.batches(range(2)):
                while epoch == 5 and not Path(hold).exists() and not run.should_stop:
                    time.sleep(0.005)
            run.log(val_loss=LOSSES[epoch])

    hold = root / "go on"
    job = tk.submit(fit, hold=str(hold), patience=3)
    eventually(lambda: job.record.epoch == 6)
    job.stop()
    assert job.wait(20) is Status.STOPPED
    hold.touch()
    job.resume()
    assert job.wait(20) is Status.COMPLETED
    assert (job.record.epoch, job.record.ended_by) == (7, EndedBy.EARLY_STOPPING)


# --- the options ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_time": "soon"}, "max_time='soon'.*'30min'"),
        ({"max_time": 0}, "max_time=0"),
        ({"patience": 0}, "patience: expected a whole number >= 1, got 0"),
        ({"patience": 1.5}, "patience: .*got 1.5"),
        ({"on_done": "notify"}, "on_done='notify'.*function"),
    ],
)
def test_wrong_options_leave_nothing(root: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        tk.submit(by_epochs, **options)
    assert not (root / "artifacts").exists()


def test_a_parameter_of_the_function_stays_the_functions(root: Path) -> None:
    """Who has written fit(run, patience) means that one."""

    def fit(run: Any, patience: int, max_time: str = "1h") -> tuple[int, str]:
        return patience, max_time

    job = tk.submit(fit, patience=3, max_time="later")
    assert job.result(20) == (3, "later")
    assert job.record.params == {"patience": 3, "max_time": "later"}
    assert job.record.limits == Limits()


# --- what follows --------------------------------------------------------------------------------


def returns(run: Any) -> int:
    return 5


def raises(run: Any) -> None:
    raise ValueError("as it must")


@pytest.mark.parametrize(("runner", "function"), [("thread", returns), ("thread", raises), ("process", returns)])
def test_on_done_is_called_here_with_the_job(root: Path, runner: str, function: Callable[..., Any]) -> None:
    """In this process, in a thread that is neither this one nor the training's."""
    called: list[tuple[tk.Job, str]] = []
    done = threading.Event()

    def on_done(job: tk.Job) -> None:
        called.append((job, threading.current_thread().name))
        done.set()

    job = tk.submit(function, runner=runner, on_done=on_done)
    assert done.wait(60)
    ((given, thread),) = called
    assert (given.id, thread) == (job.id, f"trainkit-done-{job.id}")
    assert given.done()


def test_a_script_waits_for_what_should_follow(root: Path) -> None:
    """A script that ends after it has started a job in a thread: on_done is still called."""
    code = (
        "import time, trainkit as tk\n"
        "tk.submit(lambda run: time.sleep(0.3), on_done=lambda job: print(job.state, 'was told'))\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (told.stdout, told.stderr) == ("COMPLETED was told\n", "")
