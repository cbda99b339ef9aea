"""Several ranks act as one: the same weights, the same steps, one set of files."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

import trainkit as tk
from trainkit.errors import OptionError
from trainkit.files.record import Status

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
Eventually = Callable[..., None]
PENGUINS = Path(__file__).parents[2] / "notebooks" / "penguins.csv"


def learns(
    run: Any, epochs: int = 3, batch_size: int = 16, pause_s: float = 0.0, lr: float = 0.05, fails_on: int = -1
) -> Any:
    """Train a small network as people write it."""
    import time

    import torch
    from torch.utils.data import DataLoader, TensorDataset

    torch.manual_seed(0)
    x = torch.randn(256, 8)
    y = x @ torch.randn(8, 1)
    model = run.prepare(torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    generator = torch.Generator().manual_seed(1)
    run.track(model=model, optimizer=optimizer)
    run.checkpoint_every(steps=10)
    loader = DataLoader(TensorDataset(x, y), batch_size, shuffle=True, generator=generator)
    for _ in run.epochs(epochs):
        for rows, targets in run.batches(loader):
            if run.rank == fails_on and run.step == 5:
                raise ValueError("the data is wrong")
            loss = torch.nn.functional.mse_loss(model(rows), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
            time.sleep(pause_s)
    return model


def test_two_ranks_reach_the_weights_of_one_with_the_combined_batch(root: Path) -> None:
    """The rows come in the same order, each rank gets its own, and the gradients are their mean."""
    one = tk.submit(learns, runner="process", batch_size=32)
    two = tk.submit(learns, ranks=2, batch_size=16)
    assert [one.wait(60), two.wait(60)] == [Status.COMPLETED] * 2
    assert two.record.runner == "process"
    assert (one.record.step, two.record.step) == (24, 24)
    for (name, a), (_, b) in zip(one.model().items(), two.model().items(), strict=True):
        assert not name.startswith("module."), "a model file is that of one rank"
        assert (a - b).abs().max() < 1e-5, name
    assert len(two.metrics()) == 24, "one line a step: rank 0 reports"


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two state dicts are the same to rounding."""
    return all((a[name] - b[name]).abs().max() < 2e-5 for name in a)


def started(job: tk.Job, eventually: Eventually, *, step: int = 3) -> tk.Job:
    """Wait until a job has taken a few steps."""
    eventually(lambda: job.record.step > step or job.done(), within_s=120)
    assert job.state is Status.RUNNING, job.record.message
    return job


def test_two_ranks_make_of_a_table_what_one_makes(root: Path) -> None:
    """Each batch is divided among the ranks, so batch size, steps and result stay."""
    options: dict[str, Any] = {"target": "species", "epochs": 3, "dropout": 0.0, "seed": 3}
    one = tk.train(PENGUINS, runner="process", **options)
    two = tk.train(PENGUINS, ranks=2, **options)
    assert [one.wait(120), two.wait(120)] == [Status.COMPLETED] * 2
    assert one.record.step == two.record.step
    a, b = (job.model().network.state_dict() for job in (one, two))
    assert sorted(a) == sorted(b)
    assert same(a, b)


def test_a_stop_and_a_change_reach_all_ranks_at_the_same_step_and_other_ranks_go_on(
    root: Path, eventually: Eventually
) -> None:
    """Neither hangs; what was saved is whole, and one rank goes on from what two have saved."""
    job = started(tk.submit(learns, ranks=2, epochs=60, pause_s=0.02), eventually)
    job.set(lr=0.01)
    eventually(lambda: any(event["event"] == "change" for event in job.events()))
    assert job.pause() is Status.PAUSED
    at = job.record.step
    assert job.resume() is Status.RUNNING
    eventually(lambda: job.record.step > at)
    eventually(lambda: len(job.record.ranks) == 2 and all(each.steps_per_s for each in job.record.ranks))
    assert [(each.rank, each.device) for each in job.record.ranks] == [(0, None), (1, None)]
    job.stop()
    assert job.wait(30) is Status.STOPPED
    saved = job.record.checkpoint
    assert saved is not None
    assert saved.step == job.record.step, "a stop saves"
    job.resume(ranks=1)
    assert job.record.resources.ranks == 1
    started(job, eventually, step=saved.step or 0)
    assert any("goes on with 1 ranks, it had 2" in event.get("message", "") for event in job.events())
    job.stop()
    assert job.wait(30) is Status.STOPPED


def test_a_killed_rank_begins_again_from_the_checkpoint_and_reaches_the_same_weights(
    root: Path, eventually: Eventually
) -> None:
    """The restart is in the record and among the events; the steps that were lost are made again, bit for bit."""
    whole = tk.submit(learns, ranks=2, epochs=8)
    assert whole.wait(120) is Status.COMPLETED
    job = started(tk.submit(learns, ranks=2, epochs=8, pause_s=0.05, retries=1), eventually, step=22)
    eventually(lambda: len(job.record.ranks) == 2)
    os.kill(job.record.ranks[1].pid, signal.SIGKILL)
    assert job.wait(120) is Status.COMPLETED
    record = job.record
    assert (record.restarts, record.attempt) == (1, 2)
    told = next(event["message"] for event in job.events() if event["event"] == "restart")
    assert told == "restart 1 of 1, from its checkpoint: rank 1 was ended by SIGKILL"
    a, b = whole.model(), job.model()
    assert all(a[name].equal(b[name]) for name in a)


def test_without_retries_a_lost_rank_interrupts_the_job_and_nobody_is_left(
    root: Path, eventually: Eventually
) -> None:
    """With nobody to end the others they would wait for ever."""
    job = started(tk.submit(learns, ranks=2, epochs=1000, pause_s=0.02), eventually)
    eventually(lambda: len(job.record.ranks) == 2)
    pids = [each.pid for each in job.record.ranks]
    os.kill(pids[0], signal.SIGKILL)
    assert job.wait(60) is Status.INTERRUPTED
    assert job.record.message == "rank 0 was ended by SIGKILL"
    eventually(lambda: not any(psutil.pid_exists(pid) for pid in pids))


def test_an_exception_of_any_rank_is_that_of_the_job_and_is_not_tried_again(root: Path) -> None:
    """Not the error of the rank that waited for it in vain."""
    for rank in (0, 1):
        job = tk.submit(learns, ranks=2, fails_on=rank, retries=3)
        assert job.wait(60) is Status.FAILED
        error = job.record.error
        assert error is not None
        assert (error.type, error.message, job.record.restarts) == ("ValueError", "the data is wrong", 0)


def test_what_cannot_be_is_refused_before_anything_is_made(root: Path) -> None:
    """Ranks of a thread, a share of a rank, more GPUs than there are."""
    for options, told in [
        ({"runner": "thread", "ranks": 2}, "runner='thread' is this process alone"),
        ({"ranks": 0}, "ranks=0: expected a whole number from 1"),
        ({"ranks": 1.5}, "ranks=1.5: expected a whole number"),
        ({"ranks": 2, "retries": -1}, "retries=-1: expected"),
        ({"runner": "process", "ranks": 2, "gpus_per_rank": 2}, "one GPU, or none"),
        ({"runner": "process", "address": "http://head:8265"}, "for a cluster's address use runner='ray'"),
    ]:
        with pytest.raises(OptionError, match=told):
            tk.submit(learns, **options)
    assert list(root.iterdir()) == []
