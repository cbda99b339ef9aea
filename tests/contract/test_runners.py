"""One contract for every runner: what a job promises, wherever it runs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import trainkit as tk
from trainkit.errors import JobInterruptedError, JobStoppedError, OptionError, RunnerError, StateError
from trainkit.files.record import Status
from trainkit.runners import RUNNERS
from trainkit.runners import runner as find_runner
from trainkit.runners.slots import LIMIT_VARIABLE

#: A new runner is one line here.
RUNNERS_UNDER_TEST = ["thread", "process"]
#: Those that need more than this suite: its tests, as far as they apply, are in test_ray.py.
ELSEWHERE = ["ray"]

Eventually = Callable[..., None]


def test_every_runner_is_under_test() -> None:
    """A runner that is not in the contract suite is not a runner."""
    assert sorted(RUNNERS_UNDER_TEST + ELSEWHERE) == sorted(RUNNERS)


@pytest.fixture(params=RUNNERS_UNDER_TEST)
def runner(request: pytest.FixtureRequest, root: Path) -> str:
    """The name of a runner, with a root for its jobs."""
    return str(request.param)


def functions() -> dict[str, Callable[..., Any]]:
    """Training functions as a notebook has them: not importable, so they travel by value."""

    def counts(run: Any, epochs: int = 3, batches: int = 5) -> dict[str, int]:
        print("counting begins")
        seen = 0
        for epoch in run.epochs(epochs):
            for batch in run.batches(range(batches)):
                seen += 1
                run.log(loss=1.0 / seen, batch=batch)
            run.log(val_loss=1.0 / (epoch + 1))
        return {"seen": seen}

    def goes_on(run: Any, pause_s: float = 0.002) -> str:
        import time

        for _ in run.epochs(1_000_000):
            for _ in run.batches(range(100)):
                time.sleep(pause_s)
                run.log(loss=1.0)
        return "ended by itself"

    def only_logs(run: Any) -> None:
        import time

        while True:
            time.sleep(0.002)
            run.log(loss=0.5)

    def asks(run: Any) -> str:
        import time

        while not run.should_stop:
            time.sleep(0.002)
        run.log(loss=0.25)
        return "stopped when asked"

    def fails(run: Any) -> None:
        run.log(loss=2.0)
        raise ValueError("the data is wrong")

    def silent(run: Any) -> int:
        return 7

    return {f.__name__: f for f in (counts, goes_on, only_logs, asks, fails, silent)}


def started(job: tk.Job, eventually: Eventually) -> tk.Job:
    """Wait until a job has taken a few steps."""
    eventually(lambda: job.record.step > 2 or job.done())
    assert job.state is Status.RUNNING
    return job


def test_completes(runner: str, eventually: Eventually) -> None:
    """A job that ends by itself is COMPLETED, with its result, its metrics and its last place in the record."""
    job = tk.submit(functions()["counts"], runner=runner)
    assert job.result(timeout=60) == {"seen": 15}
    record = job.record
    assert (record.status, record.ended_by) == ("COMPLETED", "epochs")
    assert (record.epoch, record.epochs, record.step, record.total_steps) == (3, 3, 15, 15)
    assert record.progress == 100.0
    assert record.params == {"epochs": 3, "batches": 5}
    assert record.best is not None
    assert (record.best.metric, record.best.epoch, record.best.value) == ("val_loss", 3, 1 / 3)
    assert record.started_at is not None
    assert record.finished_at is not None
    assert record.created_at <= record.started_at <= record.finished_at
    assert job.exception() is None
    frame = job.metrics()
    assert frame.index.tolist() == list(range(1, 16))
    assert frame["loss"].iloc[-1] == 1 / 15
    assert frame["val_loss"].dropna().tolist() == [1.0, 0.5, 1 / 3]
    # The record comes first: an event that claims an end which the record does not know would be a lie.
    eventually(lambda: [e["status"] for e in job.events() if e["event"] == "state"] == ["RUNNING", "COMPLETED"])


def test_its_output_goes_into_its_log(runner: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What a job prints is in its log, and nowhere else."""
    job = tk.submit(functions()["counts"], runner=runner)
    job.wait(60)
    assert job.logs() == "counting begins\n"
    assert job.logs(tail=1) == "counting begins\n"
    assert job.logs(tail=0) == ""
    print("the notebook's own")
    assert capsys.readouterr().out == "the notebook's own\n"


def test_fails(runner: str) -> None:
    """An exception of the training code is in the record with the user's line, and raised by result()."""
    job = tk.submit(functions()["fails"], runner=runner)
    with pytest.raises(ValueError, match="the data is wrong"):
        job.result(timeout=60)
    record = job.record
    assert (record.status, record.ended_by) == ("FAILED", "exception")
    assert record.error is not None
    assert (record.error.type, record.error.message) == ("ValueError", "the data is wrong")
    assert 'raise ValueError("the data is wrong")' in record.error.traceback
    assert "trainkit/runners/worker.py" not in record.error.traceback
    assert isinstance(job.exception(), ValueError)
    assert job.record.loss == 2.0


def test_stops_at_the_next_step(runner: str, eventually: Eventually) -> None:
    """stop() is acknowledged, takes effect at the next step, and stopping again changes nothing."""
    job = started(tk.submit(functions()["goes_on"], runner=runner), eventually)
    job.stop()
    assert job.wait(60) is Status.STOPPED
    happened = [each.get("action") or each.get("status") for each in job.events()]
    assert [happened.count(each) for each in ("stop", "STOPPING")] == [1, 1]
    record = job.record
    assert record.ended_by == "user"
    assert record.step == job.metrics().index[-1], "the last step that was begun is the last that was logged"
    with pytest.raises(JobStoppedError):
        job.result()
    before = job.paths.record.read_bytes()
    assert [job.stop(), job.finish(), job.kill()] == [Status.STOPPED] * 3
    assert job.paths.record.read_bytes() == before


def test_a_function_that_only_logs_can_be_stopped(runner: str, eventually: Eventually) -> None:
    """Without run.epochs and run.batches, run.log is where a job stops."""
    job = started(tk.submit(functions()["only_logs"], runner=runner), eventually)
    job.stop()
    assert job.wait(60) is Status.STOPPED


def test_a_function_that_asks_returns_in_its_own_way(runner: str, eventually: Eventually) -> None:
    """run.should_stop leaves the ending to the function: no exception, and its result counts."""
    job = tk.submit(functions()["asks"], runner=runner)
    eventually(job.running)
    job.stop()
    assert job.wait(60) is Status.STOPPED
    assert job.result() == "stopped when asked"
    assert job.record.loss == 0.25


def test_a_function_that_uses_nothing_of_run_completes(runner: str) -> None:
    """A function that calls nothing is still a job with a result."""
    assert tk.submit(functions()["silent"], runner=runner).result(timeout=60) == 7


def test_finishes_early(runner: str, eventually: Eventually) -> None:
    """finish() lets the loops end, the code after them run, and the job is COMPLETED."""
    job = started(tk.submit(functions()["goes_on"], runner=runner), eventually)
    job.finish()
    assert job.result(timeout=60) == "ended by itself"
    assert (job.record.status, job.record.ended_by) == ("COMPLETED", "user")


def test_pauses_and_goes_on(runner: str, eventually: Eventually) -> None:
    """A paused job takes no step until it is resumed; a stop reaches it while it is paused."""
    job = started(tk.submit(functions()["goes_on"], runner=runner), eventually)
    job.pause()
    eventually(lambda: job.state is Status.PAUSED)
    eventually(lambda: job.record.step == job.metrics().index[-1])
    at = job.record.step
    job.resume()
    eventually(lambda: job.record.step > at)
    job.pause()
    job.stop()
    assert job.wait(60) is Status.STOPPED


def test_live_changes_reach_the_run(runner: str, eventually: Eventually) -> None:
    """job.set changes run.params between two steps and leaves an event with its step."""
    job = started(tk.submit(functions()["goes_on"], runner=runner), eventually)
    with pytest.raises(OptionError, match="'pause' .* did you mean 'pause_s'|'pause'; did you mean 'pause_s'"):
        job.set(pause=1)
    job.set(pause_s=0.001)
    eventually(lambda: any(e["event"] == "change" for e in job.events()))
    change = next(e for e in job.events() if e["event"] == "change")
    assert (change["params"], change["before"]) == ({"pause_s": 0.001}, {"pause_s": 0.002})
    assert change["step"] > 0
    eventually(lambda: job.record.params["pause_s"] == 0.001)
    job.stop()
    job.wait(60)


def test_jobs_beyond_the_limit_wait_in_order_and_say_for_whom(
    runner: str, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    """One place: the second job is QUEUED and names the first; they run in the order of their submission."""
    monkeypatch.setenv(LIMIT_VARIABLE, "1")
    first = started(tk.submit(functions()["goes_on"], runner=runner, job_id="first"), eventually)
    others = [tk.submit(functions()["silent"], runner=runner, job_id=f"later-{n}") for n in range(3)]
    eventually(lambda: "first" in others[0].record.message)
    assert [job.state for job in others] == [Status.QUEUED] * 3
    first.stop()
    assert [job.wait(60) for job in others] == [Status.COMPLETED] * 3
    starts = [job.record.started_at for job in others]
    assert starts == sorted(starts)  # type: ignore[type-var]


def test_a_stop_while_queued_ends_a_job_that_never_ran(
    runner: str, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    """A queued job can be stopped; its function is never called."""
    monkeypatch.setenv(LIMIT_VARIABLE, "1")
    first = started(tk.submit(functions()["goes_on"], runner=runner), eventually)
    second = tk.submit(functions()["counts"], runner=runner)
    assert second.state is Status.QUEUED
    second.stop()
    assert second.wait(60) is Status.STOPPED
    assert second.record.started_at is None
    assert second.logs() == ""
    first.stop()
    first.wait(60)


def test_read_and_stopped_from_another_process(runner: str, root: Path, eventually: Eventually) -> None:
    """Any process that knows the folder sees the same job and can stop it."""
    job = started(tk.submit(functions()["goes_on"], runner=runner, job_id="shared"), eventually)
    script = """
        import json, trainkit as tk
        job = tk.attach("shared")
        seen = [j.id for j in tk.jobs("running")]
        before = job.state
        job.stop()
        print(json.dumps([seen, before, job.wait(60), job.record.step]))
    """
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60, check=True
    )
    seen, before, after, step = json.loads(out.stdout)
    assert (seen, before, after) == (["shared"], "RUNNING", "STOPPED")
    assert step == job.record.step


def test_death_by_sigkill_is_seen_within_a_second(runner: str, root: Path, eventually: Eventually) -> None:
    """Whatever process runs the job: once it is killed, nobody reads RUNNING any more."""
    script = f"""
        import sys, time, trainkit as tk
        def fit(run):
            import time
            while True:
                time.sleep(0.002)
                run.log(loss=1.0)
        job = tk.submit(fit, runner={runner!r}, job_id="victim")
        time.sleep(600)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)]) as notebook:
        eventually(lambda: "victim" in [job.id for job in tk.jobs("running")] and tk.attach("victim").record.step)
        pid = tk.attach("victim").record.pid
        assert pid is not None
        assert (pid == notebook.pid) is (runner == "thread")
        killed_at = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        job = tk.attach("victim")
        assert job.wait(60) is Status.INTERRUPTED
        print(f"{runner}: its death was seen after {time.monotonic() - killed_at:.2f} s")
        with pytest.raises(JobInterruptedError):
            job.result()
        notebook.kill()
    assert job.state is Status.INTERRUPTED


def test_callbacks_and_await(runner: str) -> None:
    """A job is awaited like a future, and calls back when it is done."""
    called = threading.Event()
    job = tk.submit(functions()["silent"], runner=runner)
    job.add_done_callback(lambda ended: called.set() if ended.state is Status.COMPLETED else None)

    async def settle() -> Any:
        return await job

    # In a thread of its own: an event loop may run in this one.
    with ThreadPoolExecutor(1) as elsewhere:
        assert elsewhere.submit(lambda: asyncio.run(settle())).result(20) == 7
    assert called.wait(60)


def test_waiting_has_a_limit_and_harms_nothing(runner: str, eventually: Eventually) -> None:
    """wait(timeout) raises TimeoutError while the job goes on."""
    job = started(tk.submit(functions()["goes_on"], runner=runner), eventually)
    with pytest.raises(TimeoutError, match="goes on"):
        job.wait(timeout=0.05)
    with pytest.raises(TimeoutError):
        job.result(timeout=0.05)
    assert job.state is Status.RUNNING
    job.stop()
    job.wait(60)


def test_parameters_that_the_function_does_not_take_leave_nothing_behind(runner: str, root: Path) -> None:
    """A wrong parameter is named with its nearest neighbour, before any file is made."""
    with pytest.raises(OptionError, match="'epoch'; did you mean 'epochs'"):
        tk.submit(functions()["counts"], runner=runner, epoch=3)
    assert list(root.iterdir()) == []


def test_launching_returns_at_once(runner: str, tmp_path: Path) -> None:
    """submit never waits for the job."""

    def waits(run: Any, until: str) -> None:
        import os
        import time

        while not os.path.exists(until):
            time.sleep(0.01)

    job = tk.submit(waits, runner=runner, until=str(tmp_path / "until"))
    assert not job.done()
    (tmp_path / "until").touch()
    assert job.wait(100) is Status.COMPLETED


def test_polling_tells_whether_anybody_runs_the_job(runner: str, eventually: Eventually) -> None:
    """A runner knows its job from the files alone: alive while it runs, gone when it has ended."""
    job = started(tk.submit(functions()["goes_on"], runner=runner), eventually)
    where = find_runner(runner)
    assert where.poll(job.store, job.record) is True
    job.stop()
    job.wait(60)
    eventually(lambda: where.poll(job.store, job.record) is False)


def test_a_stopped_job_goes_on_as_a_new_attempt(runner: str, eventually: Eventually) -> None:
    """resume() begins where the job was cut, under the same id; requests of the first attempt count no more."""

    def fit(run: Any, steps: int = 2000) -> list[int]:
        import time

        class Memory:
            def __init__(self) -> None:
                self.seen: list[int] = []

            def state_dict(self) -> dict[str, list[int]]:
                return {"seen": self.seen}

            def load_state_dict(self, state: dict[str, list[int]]) -> None:
                self.seen = state["seen"]

        memory = Memory()
        run.track(memory=memory)
        for epoch in run.epochs(2):
            for batch in run.batches(range(steps // 2)):
                time.sleep(0.0005)
                memory.seen = [*memory.seen[-3:], epoch * (steps // 2) + batch]
                run.log(loss=1.0)
        return memory.seen

    job = started(tk.submit(fit, runner=runner), eventually)
    job.stop()
    assert job.wait(60) is Status.STOPPED
    cut_at = job.record.step
    assert 0 < cut_at < 2000
    assert job.resume() in (Status.QUEUED, Status.RUNNING)
    assert job.result(timeout=60) == [1996, 1997, 1998, 1999]
    record = job.record
    assert (record.attempt, record.step, record.status) == (2, 2000, "COMPLETED")
    assert job.metrics().index.tolist() == list(range(1, 2001))
    with pytest.raises(StateError, match="is COMPLETED; only"):
        job.resume()


def test_kill(runner: str, eventually: Eventually) -> None:
    """A process is killed at once and reads STOPPED by the user; a thread refuses and says what to use."""

    def hangs(run: Any) -> None:
        import time

        while True:
            time.sleep(0.01)

    job = tk.submit(hangs if runner != "thread" else functions()["goes_on"], runner=runner)
    eventually(lambda: job.state is Status.RUNNING)
    if runner == "thread":
        with pytest.raises(RunnerError, match="runner='process'"):
            job.kill()
        job.stop()
        job.wait(60)
        return
    assert job.kill() is Status.STOPPED
    assert (job.record.ended_by, job.record.message) == ("user", "killed on request")
