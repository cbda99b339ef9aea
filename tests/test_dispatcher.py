"""Thread jobs that wait: hundreds of them hold little, and what goes wrong meanwhile is tried again."""

from __future__ import annotations

import os
import resource
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import trainkit as tk
from trainkit.errors import RunnerError, StoreError
from trainkit.files.record import Record, Status
from trainkit.files.store import Store
from trainkit.runners import descriptors, queueing
from trainkit.runners.queueing import QueuedJob
from trainkit.runners.slots import LIMIT_VARIABLE, Ticket, live_job_ids

Eventually = Callable[..., None]


class Gate:
    """A job that holds the only place until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(LIMIT_VARIABLE, "1")
        self._event = threading.Event()
        started = threading.Event()

        def holds(run: Any) -> None:
            started.set()
            self._event.wait(100)

        self.job = tk.submit(holds)
        assert started.wait(60)

    def open(self) -> None:
        self._event.set()
        assert self.job.wait() is Status.COMPLETED


@pytest.fixture
def gate(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(monkeypatch)
    yield gate
    gate.open()


def nothing(run: Any) -> None:
    """Return at once."""


def open_files() -> int:
    return len(os.listdir("/dev/fd"))


def test_a_waiting_job_holds_two_files_and_no_thread(gate: Gate, eventually: Eventually) -> None:
    """Its lock and its ticket; one thread waits for all."""
    tk.submit(nothing)
    files, threads = open_files(), threading.active_count()
    jobs = [tk.submit(nothing) for _ in range(40)]
    eventually(lambda: jobs[-1].paths.task.exists())  # each function is kept for a resume
    eventually(lambda: threading.active_count() <= threads)
    assert open_files() <= files + 2 * 40
    gate.open()
    assert {job.wait() for job in jobs} == {Status.COMPLETED}


def test_all_waiting_jobs_name_the_first_ones(gate: Gate, eventually: Eventually) -> None:
    jobs = [tk.submit(nothing) for _ in range(25)]
    expected = f"waiting for holds ({gate.job.id[-4:]})"
    eventually(lambda: {job.record.message for job in jobs} == {expected})
    gate.open()


def test_jobs_run_in_the_order_of_their_submission(gate: Gate) -> None:
    order: list[int] = []
    jobs = [tk.submit(lambda run, n: order.append(n), n=n) for n in range(20)]
    gate.open()
    for job in jobs:
        job.wait()
    assert order == list(range(20))


@pytest.mark.parametrize("verb", ["stop", "finish"])
def test_any_waiting_job_can_be_stopped(gate: Gate, eventually: Eventually, verb: str) -> None:
    """Also one in the middle, which is not looked at for its turn."""
    jobs = [tk.submit(nothing) for _ in range(3)]
    getattr(jobs[1], verb)()
    assert jobs[1].wait() is Status.STOPPED
    eventually(lambda: jobs[1].id not in live_job_ids())
    assert [job.state for job in jobs] == [Status.QUEUED, Status.STOPPED, Status.QUEUED]
    jobs[1].delete()
    gate.open()
    assert [jobs[n].wait() for n in (0, 2)] == [Status.COMPLETED] * 2


@pytest.mark.parametrize("used", [1000, 1020, 1024])
@pytest.mark.parametrize("runner", ["thread", "process"])
def test_a_process_with_too_many_open_files_refuses_new_jobs(
    root: Path, monkeypatch: pytest.MonkeyPatch, runner: str, used: int
) -> None:
    """In time: those that were accepted can run, and nothing is half-made."""
    monkeypatch.setattr(descriptors, "_counts", lambda: (used, 1024))
    with pytest.raises(RunnerError, match=rf"{used:,} files open and may have 1,024.*ulimit -n"):
        tk.submit(nothing, runner=runner)
    assert list(root.iterdir()) == []
    assert not (root.parent / "queue").exists() or live_job_ids() == []


def test_a_small_limit_of_open_files_refuses_in_time(
    gate: Gate, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    """With the system's own limit: some jobs are accepted and run, the next is refused."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = open_files() + 100
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    jobs = []

    def submit_many() -> None:
        for _ in range(100):
            jobs.append(tk.submit(nothing))

    try:
        with pytest.raises(RunnerError, match="leaves too few for another job"):
            submit_many()
        gate.open()
        assert {job.wait() for job in jobs} == {Status.COMPLETED}
        assert tk.submit(nothing).wait() is Status.COMPLETED
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(jobs) > 10


def test_a_turn_for_which_there_is_no_thread_is_tried_again(
    gate: Gate, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    """The message says so; the place stays that of the job, and the order of the others as it is."""
    jobs = [tk.submit(nothing) for _ in range(2)]
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == f"trainkit-{jobs[0].id}":
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        gate.open()
        eventually(lambda: "can't start new thread" in jobs[0].record.message)
        assert [job.state for job in jobs] == [Status.QUEUED] * 2
    assert [job.wait() for job in jobs] == [Status.COMPLETED] * 2


def test_files_that_run_out_before_a_turn_are_waited_for(
    gate: Gate, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    job = tk.submit(nothing)
    with monkeypatch.context() as patch:
        patch.setattr(descriptors, "_counts", lambda: (1020, 1024))
        gate.open()
        eventually(lambda: "1,020 files open" in job.record.message)
    assert job.wait() is Status.COMPLETED


@pytest.mark.parametrize("how", ["folder", "files"])
def test_jobs_wait_on_when_the_queue_is_removed(
    gate: Gate, root: Path, monkeypatch: pytest.MonkeyPatch, eventually: Eventually, how: str
) -> None:
    """The tickets are made again, that of the running job first."""
    monkeypatch.setattr(queueing, "RESTORED_S", 0.2)
    jobs = [tk.submit(nothing) for _ in range(3)]
    folder = root.parent / "queue"
    for path in folder.iterdir():
        path.unlink()
    if how == "folder":
        shutil.rmtree(folder)
    eventually(lambda: live_job_ids() == [each.id for each in (gate.job, *jobs)])
    assert [job.state for job in jobs] == [Status.QUEUED] * 3
    gate.open()
    assert [job.wait() for job in jobs] == [Status.COMPLETED] * 3


def test_a_message_that_cannot_be_written_does_not_fail_a_job_that_waits(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is kept for the next write."""
    store = Store(root)
    record = Record(job_id="a", name="a", status=Status.QUEUED, runner="thread")
    lock, ticket = store.create(record), Ticket("a")
    queued = QueuedJob(store, record, ticket, requests_offset=0)

    def full(record: Record, *, durable: bool) -> None:
        raise StoreError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_record", full)
        queued.report("waiting for b")
    assert store.read("a").message == ""
    queued.report("waiting for c")
    assert store.read("a").message == "waiting for c"
    ticket.close()
    lock.close()
