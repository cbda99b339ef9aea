"""Random numbers of a job's own: the same result whatever other cells draw, or a word that it is not so."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.checkpoint import checkpoint

import trainkit as tk
from trainkit.errors import OptionError
from trainkit.files.record import Status
from trainkit.resuming.ownrandom import own_random_numbers

Eventually = Callable[..., None]


def fit(run: Any) -> torch.nn.Module:
    """A loop that draws wherever loops draw: weights, order, noise, dropout, in recomputed layers too."""
    body = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.4), torch.nn.ReLU())
    model = torch.nn.Sequential(body, torch.nn.Linear(8, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    loader = torch.utils.data.DataLoader(torch.randn(48, 4), batch_size=8, shuffle=True)
    run.track(model=model, optimizer=optimizer)
    for _ in run.epochs(3):
        for x in run.batches(loader):
            hidden = checkpoint(body, x + 0.1 * torch.randn_like(x), use_reentrant=False)
            loss = (model[1](hidden) - torch.rand(8, 1)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
    return model


def bits(model: torch.nn.Module) -> bytes:
    """All bits of a model."""
    return b"".join(value.numpy().tobytes() for value in model.state_dict().values())


@pytest.fixture
def busy_notebook() -> Iterator[None]:
    """Another thread that draws from torch's shared numbers all the time."""
    over = threading.Event()

    def draw() -> None:
        while not over.wait(0.0005):
            torch.randn(50)

    thread = threading.Thread(target=draw)
    thread.start()
    yield
    over.set()
    thread.join()


@pytest.mark.usefixtures("busy_notebook")
def test_a_seeded_thread_is_not_disturbed_and_disturbs_nothing(root: Path) -> None:
    """Beside a notebook and a job that draw: the same as a loop by itself; unseeded it is not, and says so."""

    class Quiet:
        """A run that does nothing."""

        def __getattr__(self, name: str) -> Any:
            return {"epochs": range, "batches": iter}.get(name, lambda **_: None)

    alone: list[bytes] = []

    def by_itself() -> None:
        with own_random_numbers(5):
            alone.append(bits(fit(Quiet())))

    thread = threading.Thread(target=by_itself)
    thread.start()
    thread.join()
    jobs = [tk.submit(fit, seed=5) for _ in range(2)]
    assert [bits(job.result(60)) for job in jobs] == alone * 2
    told = jobs[0].record.randomness
    assert (told.seed, told.reproducible) == (5, True)
    unseeded = tk.submit(fit)
    assert bits(unseeded.result(60)) != alone[0]
    told = unseeded.record.randomness
    assert (told.seed, told.reproducible) == (None, False)
    assert "the random numbers are the notebook's" in told.why
    replayed = jobs[0].replay()
    assert bits(replayed.result(60)) == alone[0]


def test_seeding_within_a_seeded_thread_leaves_the_notebook_alone(root: Path) -> None:
    """torch.manual_seed acts on the job's generator, also where it gives the state and takes it back."""

    def seeds(run: Any) -> list[float]:
        torch.manual_seed(1)
        first = torch.rand(1).item()
        with torch.random.fork_rng(devices=[]):
            torch.rand(3)
        return [first, torch.rand(1).item()]

    before = torch.get_rng_state()
    assert (
        tk.submit(seeds, seed=9).result(20) == torch.rand(2, generator=torch.Generator().manual_seed(1)).tolist()
    )
    assert torch.equal(before, torch.get_rng_state())


def test_a_seeded_thread_resumes_exactly(root: Path) -> None:
    """The thread's own numbers are in its checkpoint; it goes on without a word of doubt."""

    def cut(run: Any) -> torch.nn.Module:
        if run.name == "cut" and run._recorder.record.attempt == 1:
            log = run.log

            def log_and_stop(**values: Any) -> None:
                log(**values)
                if run.step == 8:
                    run.control.receive({"action": "stop"})

            run.log = log_and_stop
        return fit(run)

    whole = tk.submit(cut, seed=2, name="whole")
    job = tk.submit(cut, seed=2, name="cut")
    assert job.wait(20) is Status.STOPPED
    torch.rand(100)
    job.resume()
    assert bits(job.result(20)) == bits(whole.result(20))
    assert [event for event in job.events() if event["event"] == "warning"] == []


def test_numbers_of_numpy_make_it_doubtful(root: Path) -> None:
    """numpy has one generator for all threads; that something drew from it meanwhile is said."""
    job = tk.submit(lambda run: np.random.rand(), seed=1)
    job.result(20)
    told = job.record.randomness
    assert told.reproducible is False
    assert "numpy's or Python's shared generator" in told.why


def test_tables_and_processes_are_repeatable_by_themselves(root: Path) -> None:
    """Tables draw from generators of their own; a process that was not given a seed takes one, and tells it."""
    table = tk.train(epochs=1)
    table.wait(60)
    assert (table.record.randomness.reproducible, table.record.randomness.seed) == (True, 0)

    def draws(run: Any, seed: int | None = None) -> list[float]:
        import random

        import numpy as np
        import torch

        return [random.random(), float(np.random.rand()), float(torch.rand(1)), float(seed or 0)]

    first = tk.submit(draws, runner="process")
    drawn = first.result(60)
    seed = first.record.randomness.seed
    assert first.record.randomness.reproducible
    again = tk.submit(draws, runner="process", seed=seed)
    assert again.result(60) == [*drawn[:3], float(seed or 0)]
    assert first.replay().result(60) == drawn
    with pytest.raises(OptionError, match="seed=-1: expected a whole number from 0 to 4294967295"):
        tk.submit(draws, seed=-1)
