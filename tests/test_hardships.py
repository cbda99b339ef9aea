"""What training code and its surroundings do to a job, and what must come of it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import trainkit as tk
from trainkit.errors import JobFailedError, OptionError, TrainkitError
from trainkit.files.record import Status
from trainkit.runners.slots import LIMIT_VARIABLE
from trainkit.training import boundary

Eventually = Callable[..., None]


def warnings_of(job: tk.Job) -> list[str]:
    """The warnings of a job."""
    return [event["message"] for event in job.events() if event["event"] == "warning"]


def test_odd_numbers_and_odd_requests_do_not_make_a_job_deaf(root: Path, eventually: Eventually) -> None:
    """A step of numpy's, a number beyond floats, a request that is none: the job can be stopped all the same."""

    def fit(run: Any) -> None:
        step = 0
        while True:
            step += 1
            run.log(step=np.int64(step), loss=np.float32(1.0), huge=10**400)

    job = tk.submit(fit)
    eventually(lambda: job.record.metrics.get("loss") == 1.0)
    for action in (["stop"], None, {"a": 1}, "no such thing"):
        job.store.request(job.id, action)  # type: ignore[arg-type]
    job.stop()
    assert job.wait(30) is Status.STOPPED
    assert any("huge" in text for text in warnings_of(job))


def test_texts_that_are_no_unicode_are_told(root: Path) -> None:
    """A file name with stray bytes, or an exception without words, still ends as the failure that it is."""

    class WordlessError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    def lost(run: Any) -> None:
        run.message("caf\udce9")
        raise FileNotFoundError("caf\udce9.csv")

    def wordless(run: Any) -> None:
        raise WordlessError

    job = tk.submit(lost)
    assert job.wait(10) is Status.FAILED
    assert "caf\\udce9.csv" in job.record.message
    job = tk.submit(wordless)
    assert job.wait(10) is Status.FAILED
    assert job.record.error is not None
    assert job.record.error.type == "WordlessError"


def test_a_wrong_setting_is_an_error_where_the_job_is_started(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is made of a job that could never run."""
    monkeypatch.setenv(LIMIT_VARIABLE, "zero")
    with pytest.raises(OptionError, match=LIMIT_VARIABLE):
        tk.submit(lambda run: None)
    assert tk.jobs() == []


def test_functions_that_would_run_nothing_are_refused(root: Path) -> None:
    """Generators and coroutines only begin when somebody iterates or awaits them."""

    def generator(run: Any) -> Iterator[int]:
        yield 1

    async def coroutine(run: Any) -> None: ...

    async def both(run: Any) -> AsyncIterator[int]:
        yield 1

    for function in (generator, coroutine, both):
        with pytest.raises(OptionError, match="would run nothing"):
            tk.submit(function)
    assert tk.jobs() == []


def test_numpy_parameters_are_numbers(root: Path) -> None:
    """What came from a grid of numpy's is in the record as the number that it is; long lists by their length."""
    job = tk.submit(
        lambda run, lr, width, sizes: None, lr=np.float64(0.1), width=np.int64(5), sizes=list(range(100_000))
    )
    job.wait(10)
    assert job.record.params == {"lr": 0.1, "width": 5, "sizes": "list of 100000 values"}


def test_finishing_within_a_validation_lets_it_complete(root: Path) -> None:
    """finish() ends the training loops; the validation that runs, or follows, sees all of its batches."""
    validated = []

    def fit(run: Any) -> None:
        for _ in run.epochs(100):
            for _ in run.batches(range(3)):
                pass
            if run.epoch == 2:
                run.control.receive({"action": "finish"})
            validated.append(len(list(run.batches(range(7), phase="validating"))))

    job = tk.submit(fit)
    assert job.wait(10) is Status.COMPLETED
    assert validated == [7, 7]
    assert job.record.ended_by == "user"


def test_several_loops_over_batches_are_resumed_in_the_right_one(root: Path) -> None:
    """An epoch may have two loops, and loops need no epochs: no batch is seen twice or left out."""
    seen: list[str] = []

    def fit(run: Any, epochs: bool) -> None:
        run.track(model=torch.nn.Linear(1, 1))
        for _ in run.epochs(2) if epochs else range(2):
            for part, count in (("a", 4), ("b", 3)):
                for batch in run.batches(range(count)):
                    seen.append(f"{part}{batch}")
                    if run.step == 6 and len(seen) == 6:
                        run.control.receive({"action": "stop"})

    whole = [f"{part}{batch}" for _ in range(2) for part, count in (("a", 4), ("b", 3)) for batch in range(count)]
    for epochs in (True, False):
        seen.clear()
        job = tk.submit(fit, epochs=epochs)
        assert job.wait(10) is Status.STOPPED
        # The function of the first attempt is called again: it appends to the list of this test.
        job.paths.task.unlink()
        resumed = job.store.paths(job.id)
        from trainkit.runners.task import Task, dump_task

        names: list[str] = []
        resumed.task.write_bytes(dump_task(Task(lambda run: None, {})))
        names += seen
        _resume_here(job, fit, epochs)
        assert seen == whole, names


def _resume_here(job: tk.Job, function: Callable[..., Any], epochs: bool) -> None:
    """Run a second attempt in this thread, with the very same function object."""
    from trainkit.files.locks import try_lock
    from trainkit.files.record import begin_attempt
    from trainkit.files.recorder import Recorder
    from trainkit.runners.task import Task
    from trainkit.runners.worker import Outcome, work

    lock = None
    while lock is None:
        lock = try_lock(job.paths.owner_lock)
    record = job.store.observe_as_owner(job.id)
    begin_attempt(record, now=0.0)
    outcome = Outcome()
    offset = job.paths.requests.stat().st_size
    work(Recorder(job.store, record, requests_offset=offset), Task(function, {"epochs": epochs}), outcome)
    lock.release()
    assert outcome.error is None


def test_a_model_that_cannot_be_copied_trains_on(root: Path, eventually: Eventually) -> None:
    """Asking is refused in words; the training does not notice."""

    def fit(run: Any) -> int:
        model = torch.nn.Linear(2, 1)
        run.track(model=model)
        while not run.should_stop:
            model.last = model(torch.ones(1, 2)).sum()  # a tensor with a history, which cannot be copied
            for _ in run.batches(range(1)):
                run.log(loss=1.0)
        return 1

    job = tk.submit(fit)
    eventually(lambda: job.record.step > 3)
    with pytest.raises(TrainkitError, match="cannot be copied while it trains"):
        job.predict(torch.ones(1, 2))
    at = job.record.step
    eventually(lambda: job.record.step > at)
    job.stop()
    assert job.wait(10) is Status.STOPPED


def test_a_checkpoint_that_cannot_be_saved_is_a_warning(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk does not end the training."""

    def full(*args: Any, **rest: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(boundary, "save_resume", full)

    def fit(run: Any) -> int:
        run.track(model=torch.nn.Linear(1, 1))
        for _ in run.epochs(2):
            for _ in run.batches(range(3)):
                run.checkpoint()
        return 3

    job = tk.submit(fit)
    assert job.result(timeout=60) == 3
    assert [text.split(" (")[0] for text in warnings_of(job)] == ["no checkpoint could be saved"]


def test_changes_made_in_a_pause_hold_from_the_first_step_after_it(root: Path, eventually: Eventually) -> None:
    """pause, set, resume: no step goes by with the old value."""

    def fit(run: Any, lr: float = 1.0) -> None:
        import time

        for _ in run.batches(iter(int, 1)):
            time.sleep(0.001)
            run.log(lr=run.params.lr)

    job = tk.submit(fit)
    eventually(lambda: job.record.step > 3)
    assert job.pause() is Status.PAUSED
    paused_at = job.record.step
    job.set(lr=0.5)
    eventually(lambda: any(event.get("action") == "set" for event in job.events()))
    job.resume()
    eventually(lambda: job.record.step > paused_at)
    job.stop()
    job.wait(10)
    assert job.metrics()["lr"].loc[paused_at + 1] == 0.5


def test_an_exception_that_cannot_be_made_again_comes_as_text(root: Path) -> None:
    """A class whose __init__ takes other arguments than it passes on cannot be unpickled; its text can."""

    def fit(run: Any) -> None:
        class PickyError(Exception):
            def __init__(self, a: int, b: int) -> None:
                super().__init__(f"{a} and {b}")

        raise PickyError(1, 2)

    with pytest.raises(JobFailedError, match="PickyError: 1 and 2"):
        tk.submit(fit, runner="process").result(timeout=60)


def test_a_resumed_process_works_in_the_folder_where_the_job_was_started(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    """Relative paths mean the same in every attempt."""

    def fit(run: Any) -> str:
        import os
        import time

        class Memory:
            def state_dict(self) -> dict[str, int]:
                return {}

            def load_state_dict(self, state: dict[str, int]) -> None: ...

        run.track(memory=Memory())
        for _ in run.batches(range(300)):
            time.sleep(0.001)
        return os.getcwd()

    job = tk.submit(fit, runner="process")
    started_in = os.getcwd()
    eventually(lambda: job.record.step > 3)
    job.stop()
    assert job.wait(20) is Status.STOPPED
    monkeypatch.chdir(tmp_path)
    job.resume()
    assert job.result(timeout=60) == started_in


def test_jobs_that_wait_do_not_begin_while_the_interpreter_ends(root: Path) -> None:
    """One that runs is saved, those that wait say that they never ran; nobody aborts, nobody waits in turn."""
    script = """
        import sys, time, trainkit as tk
        sys.ps1 = ">>> "
        def fit(run):
            while True:
                time.sleep(0.002)
                run.log(loss=1.0)
        jobs = [tk.submit(fit, job_id=f"job-{n}") for n in range(3)]
        while not jobs[0].record.step: time.sleep(0.01)
    """
    out = subprocess.run(
        [sys.executable, "-X", "dev", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, LIMIT_VARIABLE: "1"},
    )
    assert (out.returncode, out.stderr) == (0, "")
    assert [tk.attach(f"job-{n}").record.status for n in range(3)] == ["INTERRUPTED"] * 3
    assert "nothing was run" in tk.attach("job-2").record.message


def test_a_forked_child_that_exits_tells_nobody_to_stop(root: Path, eventually: Eventually) -> None:
    """The end of a child process is not the end of the notebook."""
    script = """
        import os, sys, time, trainkit as tk
        def fit(run):
            for _ in run.batches(range(300)):
                time.sleep(0.002)
        job = tk.submit(fit, job_id="left")
        while not job.record.step: time.sleep(0.01)
        if (pid := os.fork()) == 0:
            sys.exit(0)
        os.waitpid(pid, 0)
        print(job.wait(20))
    """
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60
    )
    assert out.stdout == "COMPLETED\n", out.stderr


def test_numbers_of_numpy_in_a_tracked_state_can_be_resumed_from(root: Path, eventually: Eventually) -> None:
    """What weights_only loading would refuse is saved as plain numbers."""

    def fit(run: Any) -> list[Any]:
        import time

        class Best:
            value: Any = None

            def state_dict(self) -> dict[str, Any]:
                return {"value": np.float64(0.5), "history": [np.int64(3)]}

            def load_state_dict(self, state: dict[str, Any]) -> None:
                self.value = [state["value"], state["history"]]

        best = Best()
        run.track(best=best)
        for _ in run.batches(range(100)):
            time.sleep(0.002)
        return best.value

    job = tk.submit(fit)
    eventually(lambda: job.record.step > 3)
    job.stop()
    assert job.wait(10) is Status.STOPPED
    job.resume()
    assert job.result(timeout=60) == [0.5, [3]]


def test_the_end_is_told_on_a_full_disk(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The room that was kept for it is given back, and the terminal state is written."""
    from trainkit.files import whole

    write = whole.write_all
    reserve: list[Path] = []

    def full(fd: int, data: bytes) -> None:
        if reserve and reserve[0].exists():
            raise OSError(28, "No space left on device")
        write(fd, data)

    monkeypatch.setattr(whole, "write_all", full)

    def fit(run: Any) -> int:
        reserve.append(run._recorder.store.paths(run.job_id).reserve)
        return 3

    job = tk.submit(fit)
    assert job.wait(10) is Status.COMPLETED
    assert job.result() == 3
    assert not job.paths.reserve.exists()
