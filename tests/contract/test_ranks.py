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

from .learning import furthest, learns
from .places import PROCESSES

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(600)]
Eventually = Callable[..., None]
PENGUINS = Path(__file__).parents[2] / "notebooks" / "penguins.csv"


def test_two_ranks_reach_the_weights_of_one_with_the_combined_batch(root: Path) -> None:
    """The rows come in the same order, each rank gets its own, and the gradients are their mean."""
    one = tk.submit(learns, runner="process", batch_size=32)
    two = tk.submit(learns, ranks=2, batch_size=16)
    assert [one.wait(300), two.wait(300)] == [Status.COMPLETED] * 2
    assert two.record.runner == "process"
    assert (one.record.step, two.record.step) == (24, 24)
    apart = furthest(one.model(), two.model())  # of the same names: a model file is that of one rank
    print(f"two ranks from one with the combined batch, a loop: {apart:.1e} apart")
    assert apart < 1e-5
    assert len(two.metrics()) == 24, "one line a step: rank 0 reports"


def test_two_ranks_make_of_a_table_what_one_makes(root: Path) -> None:
    """Each batch is divided among the ranks, so batch size, steps and result stay."""
    options: dict[str, Any] = {"target": "species", "epochs": 3, "dropout": 0.0, "seed": 3}
    one = tk.train(PENGUINS, runner="process", **options)
    two = tk.train(PENGUINS, ranks=2, **options)
    assert [one.wait(300), two.wait(300)] == [Status.COMPLETED] * 2
    assert one.record.step == two.record.step
    a, b = (job.model().network.state_dict() for job in (one, two))
    print(f"two ranks from one, a table: {furthest(a, b):.1e} apart")
    assert furthest(a, b) < 2e-5


def test_a_stop_and_a_change_reach_all_ranks_at_the_same_step_and_other_ranks_go_on(
    root: Path, eventually: Eventually
) -> None:
    """Neither hangs; what was saved is whole, and one rank goes on from what two have saved."""
    job = PROCESSES.started(tk.submit(learns, ranks=2, epochs=60, pause_s=0.02), eventually)
    job.set(lr=0.01)
    eventually(lambda: any(event["event"] == "change" for event in job.events()), within_s=300)
    job.pause()
    eventually(lambda: job.state is Status.PAUSED, within_s=300)
    at = job.record.step
    job.resume()
    eventually(lambda: job.record.step > at, within_s=300)
    eventually(
        lambda: len(job.record.ranks) == 2 and all(each.steps_per_s for each in job.record.ranks), within_s=300
    )
    assert [(each.rank, each.device) for each in job.record.ranks] == [(0, None), (1, None)]
    job.stop()
    assert job.wait(300) is Status.STOPPED
    saved = job.record.checkpoint
    assert saved is not None
    assert saved.step == job.record.step, "a stop saves"
    job.resume(ranks=1)
    assert job.record.resources.ranks == 1
    PROCESSES.started(job, eventually, step=saved.step or 0)
    assert any("goes on with 1 ranks, it had 2" in event.get("message", "") for event in job.events())
    job.stop()
    assert job.wait(300) is Status.STOPPED


def test_a_time_limit_and_patience_end_all_ranks_at_the_same_step(root: Path) -> None:
    """Rank 0 keeps the time and looks at the metric; the others come along, and the model is saved."""

    def does_not_get_better(run: Any) -> Any:
        for epoch in run.epochs(50):
            for _ in run.batches(range(8)):
                run.log(val_loss=1.0 + epoch)
        return run.step

    limited = tk.submit(learns, ranks=2, runner="process", epochs=100_000, pause_s=0.01, max_time=1.0)
    assert limited.wait(300) is Status.COMPLETED
    assert limited.record.ended_by == "time_limit"
    assert limited.record.step < 800_000
    assert limited.model() is not None
    patient = tk.submit(does_not_get_better, ranks=2, runner="process", patience=3)
    assert patient.wait(300) is Status.COMPLETED
    assert (patient.record.ended_by, patient.record.epoch) == ("early_stopping", 4)
    assert patient.result() == 4 * 4  # each of two ranks has half of the batches


def test_without_retries_a_lost_rank_interrupts_the_job_and_nobody_is_left(
    root: Path, eventually: Eventually
) -> None:
    """With nobody to end the others they would wait for ever."""
    job = PROCESSES.started(tk.submit(learns, ranks=2, epochs=1000, pause_s=0.02), eventually)
    eventually(lambda: len(job.record.ranks) == 2, within_s=300)
    pids = [each.pid for each in job.record.ranks]
    os.kill(pids[0], signal.SIGKILL)
    assert job.wait(300) is Status.INTERRUPTED
    assert job.record.message == "rank 0 was ended by SIGKILL"
    eventually(lambda: not any(psutil.pid_exists(pid) for pid in pids), within_s=300)


def test_a_rank_that_returns_early_fails_the_job_and_says_why(root: Path) -> None:
    """The others would wait for it for ever."""

    def leaves(run: Any) -> None:
        for _ in run.batches(range(100_000)):
            if run.rank == 1 and run.step == 5:
                return
            run.log(loss=1.0)

    job = tk.submit(leaves, ranks=2)
    assert job.wait(300) is Status.FAILED
    assert job.record.message.startswith("StateError: ")
    assert "every rank has to make the same steps" in job.record.message


@pytest.mark.long
def test_a_rank_that_cannot_begin_ends_the_job(root: Path) -> None:
    """A module that one machine lacks: the other rank does not wait for it."""

    def load() -> int:
        import os

        if os.environ.get("RANK") == "1":
            raise ModuleNotFoundError("No module named 'theirs'")
        return 1

    class Theirs:
        def __reduce__(self) -> Any:
            return load, ()

    theirs = Theirs()

    def uses(run: Any) -> None:
        import torch

        run.sum_over_ranks(torch.ones(1) * theirs)

    job = tk.submit(uses, ranks=2)
    assert job.wait(300) is Status.FAILED
    assert job.record.message == "ModuleNotFoundError: No module named 'theirs' (rank 1)"


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
