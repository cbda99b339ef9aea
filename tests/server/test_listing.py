"""The list of jobs: order, filters, pages, and deleting."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.server.conftest import RunningServer
from trainkit.files.record import Record, Status, encode
from trainkit.files.store import Store
from trainkit.server.index import Index
from trainkit.server.roots import Roots


def make_jobs(root: Path, count: int) -> None:
    """Write records of jobs that are over, the newest with the highest number."""
    folder = root / "artifacts" / "jobs"
    folder.mkdir(parents=True)
    for number in range(count):
        status = Status.FAILED if number % 4 == 0 else Status.COMPLETED
        record = Record(job_id=f"j{number}", name="many", status=status, created_at=float(number))
        (folder / f"j{number}.json").write_bytes(encode(record))


def test_jobs_come_newest_first_in_pages(server: RunningServer) -> None:
    """The pages together are all jobs; the count tells how many; a filter filters both."""
    root = server.root / "many"
    make_jobs(root, 250)
    seen: list[str] = []
    for offset in range(0, 300, 100):
        answer = server.get("api/train/jobs", root=root, limit=100, offset=offset).json
        assert answer["count"] == 250
        seen += [job["job_id"] for job in answer["jobs"]]
    assert seen == [f"j{number}" for number in reversed(range(250))]
    failed = server.get("api/train/jobs", root=root, state="FAILED", limit=1000).json
    assert failed["count"] == len(failed["jobs"]) == 63
    assert {job["status"] for job in failed["jobs"]} == {"FAILED"}


def test_a_job_shows_its_new_state_and_is_gone_when_deleted(
    server: RunningServer, start_job: Callable[..., Any], eventually: Any
) -> None:
    """A list that was just asked for does not tell old states; a live job is not deleted."""
    root = server.root / "changing"
    root.mkdir()
    job = start_job(root=root)

    def listed() -> list[str]:
        return [found["status"] for found in server.get("api/train/jobs", root=root).json["jobs"]]

    eventually(lambda: listed() == ["RUNNING"])
    refused = server.request("DELETE", f"api/train/jobs/{job.id}?root=changing")
    assert refused.status == 409
    job.stop()
    job.wait(10)
    assert listed() == ["STOPPED"]
    answer = server.request("DELETE", f"api/train/jobs/{job.id}?root=changing")
    assert (answer.status, answer.json["ok"], answer.json["job_id"]) == (200, True, job.id)
    assert listed() == []
    assert server.request("DELETE", f"api/train/jobs/{job.id}?root=changing").status == 404
    assert not job.paths.folder.exists()


def test_a_record_that_nobody_runs_is_interrupted_in_the_list(server: RunningServer) -> None:
    """Nothing is shown as RUNNING when nobody is there to run it."""
    root = server.root / "dead"
    (root / "artifacts" / "jobs").mkdir(parents=True)
    older = '{"job_id": "old", "status": "LOADING", "progress": 3, "created_at": "2025-10-13T02:45:20"}'
    (root / "artifacts" / "jobs" / "old.json").write_text(older)
    assert [job["status"] for job in server.get("api/train/jobs", root=root).json["jobs"]] == ["INTERRUPTED"]
    assert server.get("api/train/status", root=root, job_id="old").json["status"]["status"] == "INTERRUPTED"


def test_the_index_reads_again_what_was_replaced(root: Path) -> None:
    """Records that stay are read once; one that was replaced, as resuming does, is read again."""
    make_jobs(root / "sub", 3)
    store, index = Store(root / "sub"), Index()
    roots = Roots(root, root)
    assert {entry.status for entry in index.of(roots, store, {})} == {Status.FAILED, Status.COMPLETED}
    time.sleep(0.01)  # the time of a file has a resolution
    store.write_record(Record(job_id="j0", name="many", status=Status.STOPPED, created_at=9.0), durable=False)
    assert index.of(roots, store, {})[0][2:] == ("j0", Status.STOPPED)


@pytest.mark.extended
def test_ten_thousand_jobs_are_listed_quickly(root: Path) -> None:
    """The first list reads every record, the next ones only look at them."""
    make_jobs(root / "sub", 10_000)
    store, index, roots = Store(root / "sub"), Index(), Roots(root, root)
    index.of(roots, store, {})
    began = time.monotonic()
    assert len(index.of(roots, store, {})) == 10_000
    assert time.monotonic() - began < 1.0
