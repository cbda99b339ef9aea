"""``stop``, ``finish``, ``pause``, ``resume``, ``kill``, ``set`` and ``delete`` of a job that runs elsewhere."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

import trainkit as tk
from trainkit.files.record import Status

Cli = Callable[..., Result]
Eventually = Callable[..., None]


def loop(run: Any, lr: float = 0.1) -> float:
    for _ in run.epochs(1):
        for _ in run.batches(range(100_000)):
            time.sleep(0.005)
            run.log(loss=run.params.lr)
    return float(run.params.lr)


@pytest.fixture
def job(root: Path, eventually: Eventually) -> Iterator[tk.Job]:
    """A job that trains in a thread."""
    job = tk.submit(loop, root=root)
    eventually(lambda: job.record.step > 0)
    yield job
    job.stop()
    job.wait(20)


def test_stop_is_acknowledged_and_ends_the_job(trainkit: Cli, job: tk.Job) -> None:
    result = trainkit("stop", job.id)
    assert result.exit_code == 0
    assert result.stdout.startswith(("loop: STOPPING, ", "loop: STOPPED, "))
    assert job.wait(20) is Status.STOPPED
    again = trainkit("stop", job.id)
    assert (again.exit_code, again.stdout) == (0, "loop: STOPPED, it had already ended\n")


def test_finish_ends_the_job_as_completed(trainkit: Cli, job: tk.Job) -> None:
    record = json.loads(trainkit("finish", "--json").stdout)
    assert record["status"] in ("STOPPING", "COMPLETED")
    assert job.wait(20) is Status.COMPLETED
    assert job.record.ended_by == "user"


def test_pause_and_resume(trainkit: Cli, job: tk.Job) -> None:
    result = trainkit("pause", "loop")
    assert (result.exit_code, result.stdout) == (0, "loop: PAUSED, paused\n")
    step = job.record.step
    assert json.loads(trainkit("pause", "--json").stdout)["status"] == "PAUSED"
    assert job.record.step == step
    result = trainkit("resume")
    assert (result.exit_code, result.stdout) == (0, "loop: RUNNING, asked to resume\n")


def test_set_changes_parameters_of_the_newest_or_of_a_named_job(
    trainkit: Cli, job: tk.Job, eventually: Eventually
) -> None:
    assert trainkit("set", "lr=0.5").stdout == "loop: RUNNING, lr 0.5 from its next step on\n"
    eventually(lambda: job.record.params["lr"] == 0.5)
    record = json.loads(trainkit("set", job.id, "lr=0.25", "weight_decay=0.5", "--json").stdout)
    assert record["job_id"] == job.id
    eventually(lambda: job.record.params == {"lr": 0.25, "weight_decay": 0.5})
    assert trainkit("set", job.id).exit_code == 2
    wrong = trainkit("set", job.id, "lrr=1")
    assert wrong.exit_code == 2
    assert "did you mean 'lr'" in wrong.stderr
    assert trainkit("set", job.id, "lr").exit_code == 2


def test_a_thread_of_another_process_cannot_be_killed_and_the_message_says_what_to_do(
    trainkit: Cli, job: tk.Job
) -> None:
    result = trainkit("kill", job.id)
    assert result.exit_code == 2
    assert "runs in a thread, which cannot be killed" in result.stderr
    assert job.state is Status.RUNNING


def test_kill_ends_a_process_job(trainkit: Cli, root: Path) -> None:
    started = trainkit("submit", "training:deaf", "--detach").stdout.strip()
    result = trainkit("kill", started)
    assert (result.exit_code, tk.attach(started, root=root).state) == (0, Status.STOPPED)
    assert result.stdout.startswith("deaf: STOPPED, ")


@pytest.mark.parametrize("words", [["pause"], ["set", "lr=1"]])
def test_what_cannot_be_done_to_a_job_that_has_ended_is_refused(
    trainkit: Cli, job: tk.Job, words: list[str]
) -> None:
    job.stop()
    job.wait(20)
    result = trainkit(*words)
    assert result.exit_code == 2
    assert result.stderr == f"trainkit: job 'loop' has ended (STOPPED): there is nothing to {words[0]}\n"
    error = json.loads(trainkit(*words, "--json").stdout)["error"]
    assert error["type"] == "StateError"


def test_a_job_that_was_stopped_goes_on_in_a_new_attempt(
    trainkit: Cli, root: Path, eventually: Eventually
) -> None:
    started = trainkit("submit", "training:fit", "epochs=2", "steps=100", "pause_s=0.01", "--detach")
    job = tk.attach(started.stdout.strip(), root=root)
    eventually(lambda: job.record.step > 10)
    job.stop()
    assert job.wait(20) is Status.STOPPED
    stopped_at = job.record.step
    result = trainkit("resume", job.id)
    assert result.exit_code == 0, result.stderr
    assert f"attempt 2 is on its way; trainkit watch {job.id} shows it" in result.stdout
    assert trainkit("watch", job.id).exit_code == 0
    assert (job.record.attempt, job.record.step) == (2, 200)
    assert 10 < stopped_at < 200


def test_a_job_without_a_checkpoint_cannot_go_on_and_the_message_says_why(trainkit: Cli, job: tk.Job) -> None:
    job.stop()
    job.wait(20)
    result = trainkit("resume")
    assert result.exit_code == 2
    assert "it has no checkpoint" in result.stderr


def test_delete_removes_the_job_that_is_named_once_it_has_ended(trainkit: Cli, job: tk.Job) -> None:
    """All of its files; one that runs stays, and so does the newest where none is named."""
    refused = trainkit("delete", job.id)
    assert refused.exit_code == 2
    assert "is RUNNING; stop it first, then delete it" in refused.stderr
    over = [tk.submit(lambda run: None, name=name, root=job.store) for name in ("a", "b")]
    for each in over:
        each.wait(20)
    assert trainkit("delete").exit_code == 2
    assert {each.id for each in tk.jobs(root=job.store)} == {job.id, *(each.id for each in over)}
    result = trainkit("delete", "a")
    assert (result.exit_code, result.stdout) == (0, f"a: deleted {over[0].id}\n")
    told = json.loads(trainkit("delete", over[1].id, "--json").stdout)
    assert told == {"ok": True, "job_id": over[1].id, "message": "deleted"}
    assert [each.id for each in tk.jobs(root=job.store)] == [job.id]
