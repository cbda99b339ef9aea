"""What jobs return and raise: it stays for those who hold a job, and what nobody needs any more is freed."""

from __future__ import annotations

import copy
import gc
import pickle
import stat
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import trainkit as tk
from trainkit.errors import StateError
from trainkit.files.store import Store
from trainkit.panels.dashboard import Dashboard
from trainkit.runners import outcomes

Eventually = Callable[..., None]


def test_results_of_many_thread_jobs_stay(root: Path) -> None:
    """Forty jobs return what cannot be pickled; each held job still has its own object at the end."""
    made: list[Any] = []

    def fit(run: Any, number: int) -> Any:
        made.append(threading.Lock())
        return number, made[-1]

    jobs = [tk.submit(fit, number=number) for number in range(40)]
    results = [job.result() for job in jobs]
    assert [number for number, _ in results] == list(range(40))
    assert {id(lock) for _, lock in results} == {id(lock) for lock in made}
    assert all(tk.attach(job.id).result() is result for job, result in zip(jobs, results, strict=True))


def test_exceptions_of_many_thread_jobs_stay(root: Path) -> None:
    """A held job raises the very exception of its function, with the lines of its traceback."""

    def fit(run: Any, number: int) -> None:
        raise KeyError(number)

    jobs = [tk.submit(fit, number=number) for number in range(20)]
    for number, job in enumerate(jobs):
        error = job.exception()
        assert isinstance(error, KeyError)
        assert error.args == (number,)
        assert error.__traceback__ is not None


def test_a_result_that_can_be_pickled_outlives_its_handles(root: Path) -> None:
    """Nobody holds the job when it ends: its result is in a private file, also for other processes."""
    job_id = tk.submit(lambda run: {"lr": 0.1}).id
    tk.attach(job_id).wait()
    gc.collect()
    job = tk.attach(job_id)
    assert job.result() == {"lr": 0.1}
    assert stat.S_IMODE(job.paths.result.stat().st_mode) == 0o600
    code = f"import trainkit as tk; print(tk.attach({job_id!r}).result())"
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert there.stdout == "{'lr': 0.1}\n"


def test_an_exception_that_can_be_pickled_outlives_its_handles(root: Path) -> None:
    def fit(run: Any) -> None:
        raise KeyError("left")

    job_id = tk.submit(fit).id
    tk.attach(job_id).wait()
    gc.collect()
    with pytest.raises(KeyError, match="left"):
        tk.attach(job_id).result()


@pytest.mark.parametrize("make", [threading.Lock, lambda: bytes(2000)], ids=["cannot be pickled", "is large"])
def test_a_result_that_is_only_in_memory_goes_with_its_last_handle(
    root: Path, make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcomes, "LARGEST_RESULT_BYTES", 1000)
    job = tk.submit(lambda run: make())
    result, job_id = job.result(), job.id
    assert job.result() is result
    assert not job.paths.result.exists()
    del job
    gc.collect()
    with pytest.raises(StateError, match="is not here: it cannot be pickled, or is large"):
        tk.attach(job_id).result()


def _leave_by(how: str, run: Any) -> str:
    if how == "error":
        raise RuntimeError("out of memory, say")
    for _ in run.batches(range(10**9 if how == "stop" else 2)):
        run.log(loss=1.0)
    return "done"


@pytest.mark.parametrize("how", ["return", "error", "stop"])
def test_tracked_objects_are_freed_when_the_job_ends(root: Path, how: str, eventually: Eventually) -> None:
    """Also while somebody holds the job, and its exception."""
    alive: list[weakref.ref[Any]] = []

    def fit(run: Any) -> str:
        model = torch.nn.Linear(2, 1)
        optimizer = torch.optim.Adam(model.parameters())
        run.track(model=model, optimizer=optimizer)
        alive.extend(map(weakref.ref, (run, model, optimizer)))
        return _leave_by(how, run)

    job = tk.submit(fit)
    eventually(lambda: len(alive) == 3)
    if how == "stop":
        eventually(lambda: job.record.step > 1)
        job.stop()
    job.wait()
    error = job.exception()

    def freed() -> bool:
        gc.collect()
        return [each() for each in alive] == [None, None, None]

    eventually(freed, within_s=10)
    assert (error is None) == (how == "return")


class _Large:
    """A result that can be referred to weakly, and not be pickled."""

    def __reduce__(self) -> Any:
        raise TypeError("it stays here")


@pytest.mark.parametrize("how", ["job", "dashboard"])
def test_deleting_a_job_frees_its_result(root: Path, how: str, eventually: Eventually) -> None:
    """Even while another handle of it exists."""
    job = tk.submit(lambda run: _Large())
    alive = weakref.ref(job.result())
    other = tk.attach(job.id)
    assert alive() is not None
    if how == "job":
        other.delete()
    else:
        dashboard = Dashboard(Store(root))
        dashboard.heard({"type": "ask", "action": "delete", "job_id": job.id})
        eventually(lambda: not job.paths.record.exists())
        dashboard.close()
    eventually(lambda: alive() is None, within_s=10)


def test_a_resumed_job_has_the_result_of_its_newest_attempt(root: Path, eventually: Eventually) -> None:
    """For each handle, also those that were made before."""

    def fit(run: Any) -> Any:
        import threading
        import time

        run.track(generator=torch.Generator())
        while not run.should_stop:
            time.sleep(0.001)
        return threading.Lock()

    def stopped(job: tk.Job) -> Any:
        eventually(job.running)
        job.stop()
        job.wait()
        return job.result()

    job = tk.submit(fit)
    other = tk.attach(job.id)
    first = stopped(job)
    job.resume()
    second = stopped(job)
    assert second is not first
    assert other.result() is second


class _Tied(torch.nn.Module):
    """Two names for one weight, a buffer that no state dict has, and a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Linear(2, 2, bias=False)
        self.b = torch.nn.Linear(2, 2, bias=False)
        self.b.weight = self.a.weight
        self.register_buffer("mask", torch.tensor([1.0, 0.0]), persistent=False)
        self.scale = 3.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x)) * self.mask * self.scale


@pytest.mark.parametrize("fixed", [False, True])
def test_a_stopped_job_answers_with_the_class_of_its_model(
    root: Path, eventually: Eventually, fixed: bool
) -> None:
    """Though the model itself was freed: its structure is refilled with the weights of the model file."""
    x = torch.ones(3, 2)
    expected: list[torch.Tensor] = []

    def fit(run: Any) -> None:
        model = _Tied()
        model.a.weight.requires_grad_(not fixed)
        expected.append(model(x).detach())
        run.track(model=model)
        for _ in run.batches(range(10**9)):
            run.log(loss=1.0)

    job = tk.submit(fit)
    eventually(lambda: job.record.step > 1)
    job.stop()
    job.wait()
    model = job.model()
    assert type(model) is _Tied
    assert model.a.weight is model.b.weight
    assert model.a.weight.requires_grad is not fixed
    assert torch.equal(job.predict(x), expected[0])
    assert job.model() is not model


def test_a_model_that_cannot_be_pickled_answers_with_its_weights(root: Path) -> None:
    def fit(run: Any) -> None:
        model = torch.nn.Linear(2, 1)
        model.lock = threading.Lock()
        run.track(model=model)
        for _ in run.batches(range(2)):
            run.log(loss=1.0)

    job = tk.submit(fit)
    job.result()
    assert sorted(job.model()) == ["bias", "weight"]


@pytest.mark.parametrize("again", [copy.deepcopy, copy.copy, lambda job: pickle.loads(pickle.dumps(job))])
def test_a_job_can_be_copied_and_pickled(root: Path, again: Callable[[Any], Any]) -> None:
    """Its result is not copied with it, and is found by the copy all the same."""
    job = tk.submit(lambda run: threading.Lock())
    result = job.result()
    assert again(job) == job
    assert again(job).result() is result
