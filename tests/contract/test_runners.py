"""One contract for every runner: what a job promises, wherever it runs."""

from __future__ import annotations

import asyncio
import json
import os
import re
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

import psutil
import pytest

import trainkit as tk
from trainkit.errors import JobInterruptedError, JobStoppedError, OptionError, RunnerError, StateError
from trainkit.files.record import Status
from trainkit.runners import RUNNERS
from trainkit.runners import runner as find_runner
from trainkit.runners.slots import LIMIT_VARIABLE

from .learning import furthest, learns
from .places import PLACES, PROCESS, PROCESSES, RAY, RAY_RANKS, THREAD, Where
from .test_process import is_alive

Eventually = Callable[..., None]

#: Starting ranks takes seconds, on a cluster many.  There the short form is these, and the long form is all.
SHORT_FORM = {
    PROCESSES: {
        "test_completes",
        "test_stops_at_the_next_step",
        "test_killed_processes_begin_again_from_the_checkpoint",
        "test_an_exception_of_one_rank_is_that_of_the_job",
        "test_it_outlives_its_notebook",
        "test_kill",
    },
    RAY: {"test_stops_at_the_next_step"},
    RAY_RANKS: {"test_completes", "test_it_outlives_its_notebook"},
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test in every place that it is for, in the form that the place allows."""
    if "where" not in metafunc.fixturenames:
        return
    marked = []
    for place in getattr(metafunc.function, "places", PLACES):
        marks = []
        if place in SHORT_FORM:
            marks = [pytest.mark.ray if place.runner == "ray" else pytest.mark.ranks, pytest.mark.timeout(600)]
            if metafunc.function.__name__ not in SHORT_FORM[place]:
                marks.append(pytest.mark.long)
        marked.append(pytest.param(place, id=str(place), marks=marks))
    metafunc.parametrize("where", marked, indirect=True)


def only_in(*places: Where) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Mark a test that means nothing elsewhere."""

    def mark(test: Callable[..., None]) -> Callable[..., None]:
        test.places = places  # type: ignore[attr-defined]
        return test

    return mark


def test_every_runner_is_under_test() -> None:
    """A runner that is not in the contract suite is not a runner."""
    assert {place.runner for place in PLACES} == set(RUNNERS)


def functions() -> dict[str, Callable[..., Any]]:
    """Training functions as a notebook has them: not importable, so they travel by value."""

    def counts(run: Any, epochs: int = 3, batches: int = 5) -> dict[str, int]:
        print("counting begins")
        seen = 0
        for epoch in run.epochs(epochs):
            for _ in run.batches(range(batches)):
                seen += 1
                run.log(loss=1.0 / seen)
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


def test_completes(where: Where, eventually: Eventually) -> None:
    """A job that ends by itself is COMPLETED, with its result, its metrics and its last place in the record."""
    job = where.submit(functions()["counts"], batches=5 * where.ranks)
    assert job.result(timeout=where.within_s) == {"seen": 15}
    record = job.record
    assert (record.status, record.ended_by) == ("COMPLETED", "epochs")
    assert (record.epoch, record.epochs, record.step, record.total_steps) == (3, 3, 15, 15)
    assert record.progress == 100.0
    assert record.params == {"epochs": 3, "batches": 5 * where.ranks}
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


def test_its_output_goes_into_its_log(where: Where, capsys: pytest.CaptureFixture[str]) -> None:
    """What a job prints is in its log, and nowhere else."""
    job = where.submit(functions()["counts"])
    job.wait(where.within_s)
    assert job.logs() == "counting begins\n"
    assert job.logs(tail=1) == "counting begins\n"
    assert job.logs(tail=0) == ""
    print("the notebook's own")
    assert capsys.readouterr().out == "the notebook's own\n"


def test_fails(where: Where) -> None:
    """An exception of the training code is in the record with the user's line, and raised by result()."""
    job = where.submit(functions()["fails"])
    with pytest.raises(ValueError, match="the data is wrong"):
        job.result(timeout=where.within_s)
    record = job.record
    assert (record.status, record.ended_by) == ("FAILED", "exception")
    assert record.error is not None
    assert (record.error.type, record.error.message) == ("ValueError", "the data is wrong")
    assert 'raise ValueError("the data is wrong")' in record.error.traceback
    assert "trainkit/runners/worker.py" not in record.error.traceback
    assert isinstance(job.exception(), ValueError)
    assert job.record.loss == 2.0


def test_stops_at_the_next_step(where: Where, eventually: Eventually) -> None:
    """stop() is acknowledged, takes effect at the next step, and stopping again changes nothing."""
    job = where.started(where.submit(functions()["goes_on"]), eventually)
    job.stop()
    assert job.wait(where.within_s) is Status.STOPPED
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


@only_in(THREAD, PROCESS)
@pytest.mark.parametrize("ending", ["COMPLETED", "FAILED", "STOPPED", "STOPPED with a result", "INTERRUPTED"])
def test_exception_agrees_with_result(where: Where, eventually: Eventually, ending: str) -> None:
    """For every terminal state, exception() returns what result() raises, and None where result() returns."""

    def is_interrupted(run: Any) -> None:
        raise KeyboardInterrupt

    calls = functions() | {"is_interrupted": is_interrupted}
    name = {"COMPLETED": "silent", "FAILED": "fails", "STOPPED": "goes_on", "INTERRUPTED": "is_interrupted"}
    job = where.submit(calls[name.get(ending, "asks")])
    if ending.startswith("STOPPED"):
        eventually(lambda: job.running() or job.done(), within_s=where.within_s)
        job.stop()
    assert job.wait(where.within_s) == ending.split()[0]
    expected = {"FAILED": ValueError, "STOPPED": JobStoppedError, "INTERRUPTED": JobInterruptedError}.get(ending)
    error = job.exception()
    assert type(error) is (expected or type(None))
    if expected is None:
        assert job.result() is not None
    else:
        with pytest.raises(expected) as raised:
            job.result()
        assert str(raised.value) == str(error)


def test_a_function_that_only_logs_can_be_stopped(where: Where, eventually: Eventually) -> None:
    """Without run.epochs and run.batches, run.log is where a job stops."""
    job = where.started(where.submit(functions()["only_logs"]), eventually)
    job.stop()
    assert job.wait(where.within_s) is Status.STOPPED


def test_a_function_that_asks_returns_in_its_own_way(where: Where, eventually: Eventually) -> None:
    """run.should_stop leaves the ending to the function: no exception, and its result counts."""
    job = where.submit(functions()["asks"])
    eventually(lambda: job.running() or job.done(), within_s=where.within_s)
    job.stop()
    assert job.wait(where.within_s) is Status.STOPPED
    assert job.result() == "stopped when asked"
    assert job.record.loss == 0.25


def test_a_function_that_uses_nothing_of_run_completes(where: Where) -> None:
    """A function that calls nothing is still a job with a result."""
    assert where.submit(functions()["silent"]).result(timeout=where.within_s) == 7


def test_finishes_early(where: Where, eventually: Eventually) -> None:
    """finish() lets the loops end, the code after them run, and the job is COMPLETED."""
    job = where.started(where.submit(functions()["goes_on"]), eventually)
    job.finish()
    assert job.result(timeout=where.within_s) == "ended by itself"
    assert (job.record.status, job.record.ended_by) == ("COMPLETED", "user")


def test_pauses_and_goes_on(where: Where, eventually: Eventually) -> None:
    """A paused job takes no step until it is resumed; a stop reaches it while it is paused."""
    job = where.started(where.submit(functions()["goes_on"]), eventually)
    job.pause()
    eventually(lambda: job.state is Status.PAUSED)
    eventually(lambda: job.record.step == job.metrics().index[-1])
    at = job.record.step
    job.resume()
    eventually(lambda: job.record.step > at)
    job.pause()
    job.stop()
    assert job.wait(where.within_s) is Status.STOPPED


def test_live_changes_reach_the_run(where: Where, eventually: Eventually) -> None:
    """job.set changes run.params between two steps and leaves an event with its step."""
    job = where.started(where.submit(functions()["goes_on"]), eventually)
    with pytest.raises(OptionError, match="'pause' .* did you mean 'pause_s'|'pause'; did you mean 'pause_s'"):
        job.set(pause=1)
    job.set(pause_s=0.001)
    eventually(lambda: any(e["event"] == "change" for e in job.events()))
    change = next(e for e in job.events() if e["event"] == "change")
    assert (change["params"], change["before"]) == ({"pause_s": 0.001}, {"pause_s": 0.002})
    assert change["step"] > 0
    eventually(lambda: job.record.params["pause_s"] == 0.001)
    job.stop()
    job.wait(where.within_s)


@only_in(THREAD, PROCESS, PROCESSES)
def test_jobs_beyond_the_limit_wait_in_order_and_say_for_whom(
    where: Where, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    """One place: the second job is QUEUED and names the first; they run in the order of their submission."""
    monkeypatch.setenv(LIMIT_VARIABLE, "1")
    first = where.started(where.submit(functions()["goes_on"], job_id="first"), eventually)
    others = [where.submit(functions()["silent"], job_id=f"later-{n}") for n in range(3)]
    eventually(lambda: "goes_on (irst)" in others[0].record.message)
    assert [job.state for job in others] == [Status.QUEUED] * 3
    first.stop()
    assert [job.wait(where.within_s) for job in others] == [Status.COMPLETED] * 3
    starts = [job.record.started_at for job in others]
    assert starts == sorted(starts)  # type: ignore[type-var]


@only_in(THREAD, PROCESS, PROCESSES)
def test_a_stop_while_queued_ends_a_job_that_never_ran(
    where: Where, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    """A queued job can be stopped; its function is never called."""
    monkeypatch.setenv(LIMIT_VARIABLE, "1")
    first = where.started(where.submit(functions()["goes_on"]), eventually)
    second = where.submit(functions()["counts"])
    assert second.state is Status.QUEUED
    second.stop()
    assert second.wait(where.within_s) is Status.STOPPED
    assert second.record.started_at is None
    assert second.logs() == ""
    first.stop()
    first.wait(where.within_s)


def test_read_and_stopped_from_another_process(where: Where, root: Path, eventually: Eventually) -> None:
    """Any process that knows the folder sees the same job and can stop it."""
    job = where.started(where.submit(functions()["goes_on"], job_id="shared"), eventually)
    script = """
        import json, trainkit as tk
        job = tk.attach("shared")
        seen = [j.id for j in tk.jobs("running")]
        before = job.state
        job.stop()
        print(json.dumps([seen, before, job.wait(60), job.record.step]))
    """
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=100, check=True
    )
    seen, before, after, step = json.loads(out.stdout)
    assert (seen, before, after) == (["shared"], "RUNNING", "STOPPED")
    assert step == job.record.step


def test_death_by_sigkill_is_seen(where: Where, root: Path, eventually: Eventually) -> None:
    """Whatever process runs the job: once it is killed, nobody reads RUNNING any more."""
    script = f"""
        import sys, time, trainkit as tk
        def fit(run):
            import time
            while True:
                time.sleep(0.002)
                run.log(loss=1.0)
        job = tk.submit(fit, **{where.options!r}, job_id="victim")
        time.sleep(600)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)]) as notebook:
        try:
            eventually(lambda: [job.id for job in tk.jobs()] == ["victim"], within_s=where.within_s)
            where.started(tk.attach("victim"), eventually)
            pid = tk.attach("victim").record.pid
            assert pid is not None
            assert (pid == notebook.pid) is (where == THREAD)
            killed_at = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            job = tk.attach("victim")
            assert job.wait(where.within_s) is Status.INTERRUPTED
            print(f"{where}: its death was seen after {time.monotonic() - killed_at:.2f} s")
            with pytest.raises(JobInterruptedError):
                job.result()
        finally:
            notebook.kill()
    assert job.state is Status.INTERRUPTED


def test_callbacks_and_await(where: Where) -> None:
    """A job is awaited like a future, and calls back when it is done."""
    called = threading.Event()
    job = where.submit(functions()["silent"])
    job.add_done_callback(lambda ended: called.set() if ended.state is Status.COMPLETED else None)

    async def settle() -> Any:
        return await job

    # In a thread of its own: an event loop may run in this one.
    with ThreadPoolExecutor(1) as elsewhere:
        assert elsewhere.submit(lambda: asyncio.run(settle())).result(where.within_s) == 7
    assert called.wait(60)


def test_waiting_has_a_limit_and_harms_nothing(where: Where, eventually: Eventually) -> None:
    """wait(timeout) raises TimeoutError while the job goes on."""
    job = where.started(where.submit(functions()["goes_on"]), eventually)
    with pytest.raises(TimeoutError, match="goes on"):
        job.wait(timeout=0.05)
    with pytest.raises(TimeoutError):
        job.result(timeout=0.05)
    assert job.state is Status.RUNNING
    job.stop()
    job.wait(where.within_s)


def test_parameters_that_the_function_does_not_take_leave_nothing_behind(where: Where, root: Path) -> None:
    """A wrong parameter is named with its nearest neighbour, before any file is made."""
    with pytest.raises(OptionError, match="'epoch'; did you mean 'epochs'"):
        where.submit(functions()["counts"], epoch=3)
    assert list(root.iterdir()) == []


def test_launching_returns_at_once(where: Where, tmp_path: Path) -> None:
    """submit never waits for the job."""

    def waits(run: Any, until: str) -> None:
        import os
        import time

        while not os.path.exists(until):
            time.sleep(0.01)

    job = where.submit(waits, until=str(tmp_path / "until"))
    assert not job.done()
    (tmp_path / "until").touch()
    assert job.wait(where.within_s) is Status.COMPLETED


def test_polling_tells_whether_anybody_runs_the_job(where: Where, eventually: Eventually) -> None:
    """A runner knows its job from the files alone: alive while it runs, gone when it has ended."""
    job = where.started(where.submit(functions()["goes_on"]), eventually)
    runner = find_runner(where.runner)
    assert runner.poll(job.store, job.record) is True
    job.stop()
    job.wait(where.within_s)
    eventually(lambda: runner.poll(job.store, job.record) is False, within_s=where.within_s)


def test_a_stopped_job_goes_on_as_a_new_attempt(where: Where, eventually: Eventually) -> None:
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
        for _ in run.epochs(2):
            for _ in run.batches(range(steps // 2 * run.world_size)):
                time.sleep(0.0005)
                memory.seen = [*memory.seen[-3:], run.step]
                run.log(loss=1.0)
        return memory.seen

    job = where.started(where.submit(fit), eventually)
    job.stop()
    assert job.wait(where.within_s) is Status.STOPPED
    cut_at = job.record.step
    assert 0 < cut_at < 2000
    assert job.resume() in (Status.QUEUED, Status.RUNNING)
    assert job.result(timeout=where.within_s) == [1997, 1998, 1999, 2000]
    record = job.record
    assert (record.attempt, record.step, record.status) == (2, 2000, "COMPLETED")
    assert job.metrics().index.tolist() == list(range(1, 2001))
    with pytest.raises(StateError, match="is COMPLETED; only"):
        job.resume()


def test_kill(where: Where, eventually: Eventually) -> None:
    """Processes are killed at once and read STOPPED by the user; a thread refuses and says what to use."""

    def hangs(run: Any) -> None:
        import time

        while True:
            time.sleep(0.01)

    job = where.submit(hangs if where != THREAD else functions()["goes_on"])
    eventually(lambda: job.running() or job.done(), within_s=where.within_s)
    if where == THREAD:
        with pytest.raises(RunnerError, match="runner='process'"):
            job.kill()
        job.stop()
        job.wait(where.within_s)
        return
    assert job.kill() is Status.STOPPED
    assert (job.record.ended_by, job.record.message) == ("user", "killed on request")
    running = functions()["goes_on"]
    job = where.started(where.submit(running), eventually)
    assert job.kill() is Status.STOPPED
    assert job.record.message == "killed on request", "also of a loop that would have stopped by itself"


@only_in(PROCESS, PROCESSES, RAY, RAY_RANKS)
def test_killed_processes_begin_again_from_the_checkpoint(where: Where, eventually: Eventually) -> None:
    """As often as `retries` says, and the record tells; the weights are those of a run that was never cut."""
    whole = where.submit(learns, epochs=6)
    job = where.started(where.submit(learns, epochs=6, pause_s=0.05, retries=1), eventually, step=12)
    pid = job.record.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert job.wait(where.within_s) is Status.COMPLETED
    record = job.record
    assert (record.restarts, record.attempt) == (1, 2)
    told = next(event["message"] for event in job.events() if event["event"] == "restart")
    assert told.startswith("restart 1 of 1, from its checkpoint: ")
    assert "rank 0 was " in told or where.ranks == 1, "it says who"
    assert whole.wait(where.within_s) is Status.COMPLETED
    assert furthest(whole.model(), job.model()) == 0.0
    assert job.metrics().index.tolist() == list(range(1, record.step + 1))


@only_in(PROCESSES, RAY_RANKS)
@pytest.mark.parametrize("rank", [0, 1])
def test_an_exception_of_one_rank_is_that_of_the_job(where: Where, eventually: Eventually, rank: int) -> None:
    """With its line; not the error of the rank that waited for it in vain; and it is not tried again."""
    job = where.submit(learns, fails_on=rank, retries=3)
    with pytest.raises(ValueError, match="the data is wrong"):
        job.result(timeout=where.within_s)
    record = job.record
    assert (record.status, record.restarts, record.attempt) == ("FAILED", 0, 1)
    assert record.error is not None
    assert (record.error.type, record.error.message) == ("ValueError", "the data is wrong")
    assert 'raise ValueError("the data is wrong")' in record.error.traceback
    assert record.message == "ValueError: the data is wrong" + (" (rank 1)" if rank else "")
    assert job.logs() == "training begins\n", "what the engine says of it is no output of the job's"
    runs = find_runner(where.runner).poll
    eventually(
        lambda: runs(job.store, job.record) is False, within_s=where.within_s
    )  # nobody waits for it for ever


@only_in(PROCESSES, RAY_RANKS)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_leaves_a_loop_which_others_go_on_with_fails_the_job_soon(where: Where, rank: int) -> None:
    """The others would wait for its gradients until gloo gives up, half an hour later."""

    def leaves(run: Any, rank: int) -> None:
        import torch

        model = run.prepare(torch.nn.Linear(2, 1))
        for _ in run.batches(range(100_000)):
            model(torch.ones(1, 2)).sum().backward()
            # Not where the ranks come together anyway, which is told at once.
            if run.rank == rank and 5 < run.step < run.control.agreement.at_step:
                return

    job = where.submit(leaves, rank=rank)
    with pytest.raises(StateError, match="every rank has to make the same steps. Leave a loop on all ranks"):
        job.result(timeout=where.within_s)
    record = job.record
    assert (record.status, record.ended_by, record.restarts) == ("FAILED", "exception", 0)
    assert re.match(
        rf"StateError: rank {rank} has made \d+ steps .* rank {1 - rank} is within step ", record.message
    )
    assert record.error is not None
    assert ".sum().backward()" in record.error.traceback, "where it hangs"


@only_in(PROCESSES, RAY, RAY_RANKS)
def test_it_outlives_its_notebook(where: Where, root: Path, eventually: Eventually) -> None:
    """The kernel is killed; another process attaches, pauses, resumes and stops; a module beside is found.

    And none of the job's processes is left, though nobody is there who has started them.
    """
    (root / "beside.py").write_text("PAUSE_S = 0.01\n")
    script = f"""
        import sys, time
        sys.path.insert(0, {str(root)!r})
        import trainkit as tk
        def fit(run):
            import time
            import beside
            run.track(memory=__import__("random").Random(0))
            for _ in run.epochs(10_000):
                for _ in run.batches(range(100)):
                    time.sleep(beside.PAUSE_S)
                    run.log(loss=1.0)
        job = tk.submit(fit, **{where.options!r}, job_id="survivor")
        time.sleep(600)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], cwd=root) as notebook:
        eventually(lambda: any(job.running() or job.done() for job in tk.jobs()), within_s=where.within_s)
        notebook.kill()
    job = where.started(tk.attach("survivor"), eventually)
    job.pause()
    eventually(lambda: job.state is Status.PAUSED, within_s=where.within_s)
    at = job.record.step
    job.resume()
    eventually(lambda: job.record.step > at, within_s=where.within_s)
    if where.ranks > 1:
        eventually(lambda: len(job.record.ranks) == where.ranks, within_s=where.within_s)
    handle = job.store.handle(job.id)
    assert handle is not None
    pids = {job.record.pid, *(each.pid for each in handle.processes), *(each.pid for each in job.record.ranks)}
    processes = [psutil.Process(pid) for pid in pids]
    assert len(processes) == where.ranks + 2, "its ranks, their parent, and what started them"
    job.stop()
    assert job.wait(where.within_s) is Status.STOPPED
    assert job.record.checkpoint is not None
    assert job.record.checkpoint.step == job.record.step, "a stop saves"
    eventually(lambda: not any(is_alive(each) for each in processes), within_s=where.within_s)
