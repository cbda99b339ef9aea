"""Several at one root that delete, make and resume jobs of one id: what somebody runs is never removed."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import trainkit as tk
from trainkit.errors import JobExistsError, StateError, StoreError, TrainkitError, UnknownJobError
from trainkit.files import claims
from trainkit.files import store as files
from trainkit.files.record import Record, Status
from trainkit.files.store import Store

JOB = "job"


class Tracked:
    """Something that a checkpoint holds."""

    def state_dict(self) -> dict[str, int]:
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        pass


def queued() -> Record:
    """A record as submission makes it."""
    return Record(job_id=JOB, name=JOB, status=Status.QUEUED, runner="thread")


def at_once(*actions: Callable[[], object]) -> list[str]:
    """Do all of these at the same moment; return what each came to: ``done``, or the name of an error."""
    came = [""] * len(actions)
    barrier = threading.Barrier(len(actions))

    def do(number: int) -> None:
        barrier.wait()
        try:
            actions[number]()
            came[number] = "done"
        except Exception as error:  # noqa: BLE001 - what is not one of ours is told too
            came[number] = type(error).__name__

    threads = [threading.Thread(target=do, args=(number,)) for number in range(len(actions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return came


def removed_while_held(folder: Path, rounds: int) -> Counter[str]:
    """Two delete an old job, and a third makes a new one of that id as soon as it can, and holds it."""
    seen: Counter[str] = Counter(rounds=rounds)
    for number in range(rounds):
        store = Store(folder / str(number))
        store.create(queued()).close()
        locks: list[Any] = []

        def make(store: Store = store, locks: list[Any] = locks) -> None:
            while not locks:
                with contextlib.suppress(JobExistsError, StoreError):
                    locks.append(store.create(queued()))

        deletes = [lambda store=store: store.delete(JOB)] * 2
        came = at_once(*deletes, make)
        seen.update(came[:2])
        seen["removed while held"] += not (
            store.paths(JOB).record.exists() and store.paths(JOB).owner_lock.exists()
        )
        locks[0].close()
    return seen


def test_what_somebody_has_just_made_is_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hundred times: one of two deletes it, the other finds no job, or one that is somebody else's."""
    monkeypatch.setattr(files, "_LET_GO_S", 0.0)
    seen = removed_while_held(tmp_path, 200)
    print("deleting, beside who makes it anew:", dict(seen))
    assert seen["removed while held"] == 0
    told = {UnknownJobError.__name__, StateError.__name__}
    assert set(seen) <= {"rounds", "done", "removed while held", *told}, "nothing else came of it"


def test_the_harness_finds_a_delete_that_looks_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails one that looks whether the job is over, and then removes what it finds."""

    def delete(self: Store, job_id: str) -> None:
        self.read(job_id)
        time.sleep(0.001)
        claims.remove(self.paths(job_id))

    monkeypatch.setattr(Store, "delete", delete)
    seen = removed_while_held(tmp_path, 50)
    print("known-bad:", dict(seen))
    assert seen["removed while held"] > 0


def test_a_job_is_deleted_or_resumed(root: Path) -> None:
    """Ten times somebody resumes what somebody else deletes: one of them does, and the other is told."""

    def fit(run: Any) -> None:
        run.track(counter=Tracked())
        for _ in run.batches(range(5)):
            run.log(loss=1.0)
            if run.step == 2:
                run.control.receive({"action": "stop"})

    seen: Counter[tuple[str, ...]] = Counter()
    for number in range(10):
        job = tk.submit(fit, job_id=f"job-{number}")
        assert job.wait(60) is Status.STOPPED
        seen[tuple(at_once(job.resume, job.delete))] += 1
        if job.id in job.store.job_ids():
            assert job.wait(60) is Status.COMPLETED
        else:
            assert list(root.rglob(f"*{job.id}*")) == []
    print("deleted or resumed:", dict(seen))
    errors = {name for came in seen for name in came if name != "done"}
    assert all("done" in came for came in seen)
    assert all(issubclass(getattr(tk.errors, name), TrainkitError) for name in errors)
