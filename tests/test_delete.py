"""Deleting a job's files."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from trainkit.api.launching import submit
from trainkit.errors import JobIdError, StateError, UnknownJobError
from trainkit.files.store import Store


def _wait_for_stop(run: Any) -> None:
    while True:
        run.log(loss=1.0)
        time.sleep(0.005)


def _leave_a_file(run: Any) -> None:
    run.log(loss=1.0)


def test_all_files_of_a_job_go_and_no_others(root: Path) -> None:
    """The record, the folder and the model are gone; another job and what a link leads to are not."""
    gone, kept = submit(_leave_a_file), submit(_leave_a_file)
    gone.wait(10)
    kept.wait(10)
    gone.paths.model.write_bytes(b"model")
    kept.paths.model.write_bytes(b"model")
    (gone.paths.folder / "link").symlink_to(kept.paths.folder)
    Store(root).delete(gone.id)
    left = {path.name for path in (root / "artifacts" / "jobs").iterdir()}
    assert left == {kept.id, f"{kept.id}.json"}
    assert not gone.paths.model.exists()
    assert kept.paths.model.exists()
    assert kept.status()["status"] == "COMPLETED"


def test_a_job_that_runs_is_kept(root: Path) -> None:
    """Deleting a live job is refused, and harms nothing."""
    job = submit(_wait_for_stop)
    with pytest.raises(StateError, match="stop it first"):
        Store(root).delete(job.id)
    job.stop()
    assert job.wait(10) == "STOPPED"
    Store(root).delete(job.id)
    with pytest.raises(UnknownJobError):
        Store(root).delete(job.id)


def test_a_process_that_has_just_ended_is_waited_for(root: Path) -> None:
    """Between its last record and its end a process still holds the lock; deleting waits for it."""
    job = submit(_leave_a_file, runner="process")
    job.wait(30)
    Store(root).delete(job.id)
    assert not job.paths.folder.exists()


def test_a_damaged_record_can_be_deleted(root: Path) -> None:
    """Else nobody could get rid of it."""
    job = submit(_leave_a_file)
    job.wait(10)
    job.paths.record.write_text("{")
    Store(root).delete(job.id)
    assert not job.paths.record.exists()
    assert not job.paths.folder.exists()


def test_no_path_is_taken_for_an_id(root: Path) -> None:
    """An id that could lead elsewhere is refused."""
    with pytest.raises(JobIdError):
        Store(root).delete("../jobs")


def test_a_job_deletes_itself(root: Path) -> None:
    """What the store can do, the job can be told."""
    job = submit(_leave_a_file)
    job.wait(10)
    job.delete()
    assert not job.paths.folder.exists()
    assert not job.paths.record.exists()
