"""The rows of all jobs: what is looked at again, and that nothing is missed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trainkit.files.owners import this_process
from trainkit.files.record import Record, Status, encode
from trainkit.files.store import Store
from trainkit.panels import catalogue
from trainkit.panels.catalogue import Catalogue


class Counting(Store):
    """A store that tells which records were read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.read_ids: list[str] = []

    def read(self, job_id: str) -> Record:
        self.read_ids.append(job_id)
        return super().read(job_id)


@pytest.fixture
def store(root: Path) -> Counting:
    """A root with twenty jobs that are over."""
    found = Counting(root)
    for number in range(20):
        record = Record(job_id=f"job-{number}", name="fit", status=Status.QUEUED, runner="thread", created_at=1.0)
        found.create(record).close()
        record.status = Status.COMPLETED
        found.write_record(record, durable=False)
    return found


def test_only_what_was_written_is_read_again(store: Counting) -> None:
    """New, replaced and deleted records are told; the others are not even opened."""
    seen = Catalogue(store)
    changed, gone = seen.scan()
    assert (len(changed), gone) == (20, [])
    store.read_ids.clear()
    record = store.read("job-3")
    record.name = "renamed"
    store.write_record(record, durable=False)
    store.write_record(Record(job_id="new", name="new", status=Status.FAILED), durable=False)
    store.delete("job-7")
    store.read_ids.clear()
    changed, gone = seen.scan()
    assert sorted(row[1] for row in changed) == ["new", "renamed"]
    assert gone == ["job-7"]
    assert sorted(store.read_ids) == ["job-3", "new"]
    store.read_ids.clear()
    assert seen.scan() == ([], [])
    assert store.read_ids == []


def test_a_record_that_became_the_same_file_again_is_found_in_its_turn(
    store: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of a file may come again: here it never changes, and the folder does not either."""
    monkeypatch.setattr(catalogue, "IN_TURN", 7)
    seen = Catalogue(store)
    seen.scan()
    record = store.read("job-11")
    record.name = "in place"
    store.paths("job-11").record.write_bytes(encode(record))
    found = [row[1] for _ in range(5) for row in seen.scan()[0]]
    assert found == ["in place"]


def test_a_job_that_vanishes_without_a_word_is_told(store: Counting) -> None:
    """No file changes when an owner dies, and the row does all the same."""
    me = this_process()
    record = Record(job_id="live", name="live", status=Status.RUNNING, runner="process", created_at=2.0)
    record.pid, record.process_started_at, record.boot_id, record.host = me.pid, me.started_at, me.boot_id, me.host
    lock = store.create(record)
    seen = Catalogue(store)
    seen.scan()
    assert seen.rows["live"][2] == "RUNNING"
    before = os.stat(store.paths("live").record)
    lock.close()
    changed, _ = seen.scan()
    assert [row[2] for row in changed] == ["INTERRUPTED"]
    assert os.stat(store.paths("live").record) == before
