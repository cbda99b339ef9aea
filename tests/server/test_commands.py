"""Steering a running job by HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.server.conftest import RunningServer
from trainkit.api.job import Job
from trainkit.api.launching import submit
from trainkit.files.record import Status

pytestmark = pytest.mark.usefixtures("server")


def test_a_job_is_stopped(server: RunningServer, start_job: Callable[..., Any], eventually: Any) -> None:
    """Stop is acknowledged within 0.3 s on an idle machine, ends the job, and may be asked again."""
    job = start_job()
    eventually(lambda: job.state is Status.RUNNING)
    asked_at = time.monotonic()
    answer = server.post("api/train/stop", {"job_id": job.id})
    took_s = time.monotonic() - asked_at
    assert (answer.status, answer.json["ok"], answer.json["job_id"]) == (200, True, job.id)
    assert answer.json["status"] in ("STOPPING", "STOPPED")
    assert took_s < 1.0
    assert job.wait(10) is Status.STOPPED
    again = server.post("api/train/stop", {"job_id": job.id}).json
    assert (again["ok"], again["status"]) == (True, "STOPPED")


def test_a_job_is_paused_and_goes_on(
    server: RunningServer, start_job: Callable[..., Any], eventually: Any
) -> None:
    """Pause and resume show in the job's state."""
    job = start_job()
    eventually(lambda: job.state is Status.RUNNING)
    assert server.post("api/train/pause", {"job_id": job.id}).json["status"] == "PAUSED"
    step = job.record.step
    assert server.post("api/train/resume", {"job_id": job.id}).json["status"] == "RUNNING"
    eventually(lambda: job.record.step > step)


def test_parameters_change_while_it_runs(
    server: RunningServer, start_job: Callable[..., Any], eventually: Any
) -> None:
    """What is set arrives in the running function."""
    job = start_job()
    eventually(lambda: job.state is Status.RUNNING)
    assert server.post("api/train/set", {"job_id": job.id, "params": {"lr": 0.25}}).status == 200
    eventually(lambda: job.record.metrics.get("lr") == 0.25)
    for name in ("self", "job_id", "learning_rate"):
        refused = server.post("api/train/set", {"job_id": job.id, "params": {name: 0.1}})
        assert refused.status == 422
        assert repr(name) in refused.json["error"]["message"]
    assert job.state is Status.RUNNING


@pytest.mark.parametrize("lr", ["NaN", "0.1", -1, True, [1], None])
def test_a_learning_rate_that_is_none_is_refused(
    server: RunningServer, start_job: Callable[..., Any], lr: object
) -> None:
    """A value that would end the training does not reach it."""
    job = start_job()
    answer = server.post("api/train/set", {"job_id": job.id, "params": {"lr": lr}})
    assert answer.status == 422
    assert "lr=" in answer.json["error"]["message"] or "params" in answer.json["error"]["message"]
    assert job.paths.requests.read_text() == ""


def test_a_job_is_finished_early(server: RunningServer, start_job: Callable[..., Any], eventually: Any) -> None:
    """Finish ends the job, too."""
    job = start_job()
    eventually(lambda: job.state is Status.RUNNING)
    assert server.post("api/train/finish", {"job_id": job.id}).status == 200
    assert job.wait(10).terminal


def test_a_thread_cannot_be_killed_a_process_can(server: RunningServer, start_job: Callable[..., Any]) -> None:
    """Kill says what to do instead where it is not possible."""
    thread = start_job()
    answer = server.post("api/train/kill", {"job_id": thread.id})
    assert answer.status == 409
    assert "stop" in answer.json["error"]["message"]
    process = start_job(runner="process")
    answer = server.post("api/train/kill", {"job_id": process.id})
    assert (answer.status, answer.json["status"]) == (200, "STOPPED")


def test_a_job_is_repeated_and_branched(server: RunningServer, eventually: Any) -> None:
    """Both answer 201 with where the new job is; what cannot be is refused with what can."""

    def fit(run: Any, lr: float = 0.1) -> None:
        run.track(settings=Settings())
        run.checkpoint_every(steps=2)
        for _ in run.epochs(1):
            for _ in run.batches(range(6)):
                run.log(lr=run.params.lr)

    job = submit(fit, root=server.root)
    assert job.wait(10) is Status.COMPLETED
    found = server.get("api/train/checkpoints", job_id=job.id).json["checkpoints"]
    steps = [each["step"] for each in found]
    assert steps[-1] == 6
    refused = server.post("api/train/branch", {"job_id": job.id, "step": 1})
    assert (refused.status, refused.json["error"]["type"]) == (409, "CheckpointError")
    assert f"it can be branched from: {steps[0]}, " in refused.json["error"]["message"]
    assert server.post("api/train/branch", {"job_id": job.id, "params": {"lr": -1}}).status == 422
    answers = [
        server.post("api/train/replay", {"job_id": job.id}),
        server.post("api/train/branch", {"job_id": job.id, "step": steps[0], "params": {"lr": 0.5}, "name": "b"}),
    ]
    for answer, parent, lr in zip(answers, ((job.id, 0), (job.id, steps[0])), (0.1, 0.5), strict=True):
        assert answer.status == 201
        child = Job(answer.json["job_id"], server.root)
        assert child.wait(60) is Status.COMPLETED
        assert child.record.parent is not None
        assert (child.record.parent.job_id, child.record.parent.step) == parent
        assert (child.record.step, child.record.metrics["lr"]) == (6, lr)


class Settings:
    """Something to track."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any) -> None:
        pass


def test_jobs_of_a_folder_below_are_reached_by_its_path(
    server: RunningServer, start_job: Callable[..., Any], eventually: Any
) -> None:
    """A notebook's own folder is named absolute or relative; its jobs are not those of the root."""
    folder = server.root / "notebooks" / "deep"
    folder.mkdir(parents=True, exist_ok=True)
    job = start_job(root=folder)
    eventually(lambda: job.state is Status.RUNNING)
    assert server.get("api/train/status", job_id=job.id).status == 404
    for root in (str(folder), "notebooks/deep", "notebooks/../notebooks/deep"):
        answer = server.get("api/train/status", job_id=job.id, root=root)
        assert answer.json["status"]["job_id"] == job.id
    assert server.post("api/train/stop", {"job_id": job.id, "root": str(folder)}).status == 200
    assert job.wait(10) is Status.STOPPED


def test_a_root_outside_is_refused_whether_it_is_there_or_not(server: RunningServer, tmp_path: Path) -> None:
    """The answer tells nothing about folders outside; a link out is outside."""
    (tmp_path / "artifacts" / "jobs").mkdir(parents=True)
    link = server.root / "link"
    link.symlink_to(tmp_path)
    hidden = server.root / "has-link"
    hidden.mkdir()
    (hidden / "artifacts").symlink_to(tmp_path)
    for root in (str(tmp_path), str(tmp_path / "missing"), "..", "../..", "/", "link", "has-link", "~"):
        answer = server.get("api/train/jobs", root=root)
        assert answer.status == (404 if root == "~" else 403), root
        assert server.post("api/train/stop", {"job_id": "a", "root": root}).status == answer.status
    assert server.get("api/train/jobs", root="missing").status == 404
    link.unlink()
