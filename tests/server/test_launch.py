"""Starting jobs by HTTP."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.server.conftest import RunningServer, end, jupyter_server
from trainkit.api.job import Job

TABLE = "a,b,y\n" + "".join(f"{n},{n % 7},{n % 2}\n" for n in range(60))


@pytest.fixture
def table(session_server: RunningServer) -> Iterator[str]:
    """A small table below the root."""
    path = session_server.root / "small table.csv"
    path.write_text(TABLE)
    yield path.name
    path.unlink()


def test_a_job_is_started_and_runs_to_its_end(session_server: RunningServer, table: str) -> None:
    """201 tells where to look; what is there has the options; the job completes and leaves a model."""
    answer = session_server.post(
        "api/train",
        {"dataset": table, "target": "y", "epochs": 2, "name": "<b>first</b>", "task": "classification"},
    )
    assert answer.status == 201, answer.text
    assert answer.json["ok"] is True
    assert answer.json["message"]
    job = Job(answer.json["job_id"], session_server.root)
    where = answer.headers["Location"]
    assert where == f"/user/ann/api/train/status?job_id={job.id}"
    host = urlsplit(session_server.url)
    found = session_server._replace(url=f"{host.scheme}://{host.netloc}").request("GET", where)
    assert found.json["status"]["params"]["epochs"] == 2
    assert found.json["status"]["name"] == "<b>first</b>", "text in JSON; whoever shows it escapes it"
    assert found.headers["X-Content-Type-Options"] == "nosniff"
    assert found.json["status"]["runner"] == "process"
    assert isinstance(answer.json["pid"], int)
    assert job.wait(60) == "COMPLETED"
    assert job.paths.model.exists()
    libraries = Path(f"/proc/{session_server.process.pid}/maps").read_text()
    assert "libtorch" not in libraries, "the job needs it, the server that has started it does not"


def test_a_key_starts_one_job(session_server: RunningServer, table: str) -> None:
    """Sent ten times at once and once again, it is one job; other options under the same key are refused."""
    body = {"data": table, "target": "y", "epochs": 1, "idempotency_key": "night run"}
    with ThreadPoolExecutor(10) as threads:
        answers = list(threads.map(lambda _: session_server.post("api/train", body), range(10)))
    assert Counter(answer.status for answer in answers) == {201: 1, 200: 9}
    ids = {answer.json["job_id"] for answer in answers}
    assert len(ids) == 1
    job = Job(ids.pop(), session_server.root)
    assert session_server.post("api/train", {**body, "epochs": 2}).status == 409
    job.wait(60)
    again = session_server.post("api/train", body)
    assert (again.status, again.json["job_id"], again.json["status"]) == (200, job.id, "COMPLETED")


def test_a_table_with_a_fault_is_refused_with_its_place(session_server: RunningServer) -> None:
    """The line and the column are there for programs, too, and no job comes into being."""
    path = session_server.root / "faulty.csv"
    path.write_text(TABLE + "1,2\n")
    before = session_server.get("api/train/jobs").json["count"]
    answer = session_server.post("api/train", {"data": path.name, "target": "y"})
    assert answer.status == 422
    assert answer.json["error"]["type"] == "TableError"
    assert answer.json["error"]["line"] == 62
    answer = session_server.post("api/train", {"data": path.name, "target": "z"})
    assert answer.json["error"]["column"] == "z" or answer.json["error"]["line"] == 62
    assert session_server.get("api/train/jobs").json["count"] == before
    path.unlink()


@pytest.fixture
def small_server(tmp_path: Path) -> Iterator[RunningServer]:
    """A server that starts at most three jobs."""
    server = jupyter_server(tmp_path, "--TrainkitApp.max_live_jobs=3")
    yield server
    end(server)


@pytest.mark.extended
def test_a_burst_of_a_thousand_leaves_three_jobs(small_server: RunningServer) -> None:
    """The limit holds exactly, the rest is told to come later, every id that was given is there, and health
    and a stop are answered meanwhile."""
    (small_server.root / "t.csv").write_text(TABLE)
    body = {"data": "t.csv", "target": "y", "epochs": 100_000}
    others: list[Any] = []
    over = threading.Event()

    def ask_meanwhile() -> None:
        while not over.wait(0.05):
            others.append(small_server.request("GET", "health", token=None).status)
            others.append(small_server.post("api/train/stop", {"job_id": "unknown"}).status)

    watcher = threading.Thread(target=ask_meanwhile)
    watcher.start()
    with ThreadPoolExecutor(32) as threads:
        answers = list(threads.map(lambda _: small_server.post("api/train", body), range(1000)))
    over.set()
    watcher.join()
    try:
        assert Counter(answer.status for answer in answers) == {201: 3, 429: 997}
        assert Counter(others).keys() == {200, 404}
        assert all(answer.headers["Retry-After"] for answer in answers if answer.status == 429)
        started = {answer.json["job_id"] for answer in answers if answer.status == 201}
        listed = small_server.get("api/train/jobs").json
        assert {job["job_id"] for job in listed["jobs"]} == started
        assert listed["count"] == 3
        assert small_server.peak_memory_mb() < 400
    finally:
        for answer in answers:
            if answer.status == 201:
                small_server.post("api/train/kill", {"job_id": answer.json["job_id"]})
    assert small_server.get("api/train/jobs", state="STOPPED").json["count"] == 3
    again = small_server.post("api/train", {**body, "epochs": 1})
    assert again.status == 201, "there is room again"
    small_server.post("api/train/kill", {"job_id": again.json["job_id"]})


def test_a_stopped_job_goes_on_as_a_new_attempt(
    session_server: RunningServer, table: str, eventually: Any
) -> None:
    """From its checkpoint, in a process; one that completed is not started again."""
    answer = session_server.post("api/train", {"data": table, "target": "y", "epochs": 1_000_000})
    job = Job(answer.json["job_id"], session_server.root)
    eventually(lambda: job.record.step > 0, within_s=60)
    session_server.post("api/train/stop", {"job_id": job.id})
    assert job.wait(30) == "STOPPED"
    eventually(lambda: session_server.post("api/train/resume", {"job_id": job.id}).status == 200)
    eventually(lambda: job.state == "RUNNING" and job.record.attempt == 2, within_s=60)
    finished = session_server.post("api/train/finish", {"job_id": job.id})
    assert finished.status == 200
    assert job.wait(30) == "COMPLETED"
    refused = session_server.post("api/train/resume", {"job_id": job.id})
    assert refused.status == 409
    assert refused.json["error"]["type"] in ("StateError", "CheckpointError")
    libraries = Path(f"/proc/{session_server.process.pid}/maps").read_text()
    assert "libtorch" not in libraries, "looking at a checkpoint does not need it"
