"""A loss of power: what was not synced is gone, and a job that has a checkpoint goes on from it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import trainkit as tk
from trainkit.errors import RecordError
from trainkit.files import whole
from trainkit.files.owners import boot_id, this_process
from trainkit.files.record import Record, Status
from trainkit.files.store import Store
from trainkit.resuming import checkpoints


class Disk:
    """What a loss of power leaves: names as of the last sync of their folder, content as of its own."""

    def __init__(self) -> None:
        self.synced: dict[tuple[int, int], bytes] = {}
        self.folders: dict[str, dict[str, bytes | None]] = {}

    def sync(self, fd: int) -> None:
        place, found = os.readlink(f"/proc/self/fd/{fd}"), os.fstat(fd)
        if stat.S_ISDIR(found.st_mode):
            with os.scandir(place) as entries:
                self.folders[place] = {
                    entry.name: None if entry.is_dir() else self.synced.get(file_id(entry.stat()), b"")
                    for entry in entries
                }
            return
        data = self.synced[file_id(found)] = Path(place).read_bytes()
        folder, name = os.path.split(place)
        if name in self.folders.get(folder, {}):
            self.folders[folder][name] = data

    def leave(self, folder: Path, to: Path) -> None:
        """Write what is left of a folder."""
        for name, data in self.folders.get(str(folder), {}).items():
            if data is None:
                (to / name).mkdir()
                self.leave(folder / name, to / name)
            else:
                (to / name).write_bytes(data)


def file_id(found: os.stat_result) -> tuple[int, int]:
    """Identify a file beyond reuse of its number."""
    return found.st_ino, found.st_mtime_ns


def fit(run: Any) -> int:
    import torch

    run.track(model=torch.nn.Linear(1, 1), generator=torch.Generator())
    for _ in run.epochs(3):
        run.save_now()
    return 3


@pytest.fixture
def cuts(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Path]]:
    """Cut the power each time a record is durable or a checkpoint has its place; return what each cut has left."""
    disk, fsync, put_in_place, write_record = Disk(), os.fsync, checkpoints._put_in_place, Store.write_record
    left: list[Path] = []

    def sync(fd: int) -> None:
        fsync(fd)
        disk.sync(fd)

    def cut() -> None:
        left.append(tmp_path / f"after cut {len(left)}")
        left[-1].mkdir()
        disk.leave(root, left[-1])

    def place(temporary: Path, path: Path) -> None:
        put_in_place(temporary, path)
        if path.name == "resume.pt":
            cut()

    def write(store: Store, record: Record, *, durable: bool) -> bytes:
        data = write_record(store, record, durable=durable)
        if durable and store.root == root:
            cut()
        return data

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(checkpoints, "_put_in_place", place)
    monkeypatch.setattr(Store, "write_record", write)
    return lambda: list(left)


def running(folders: list[Path], job_id: str) -> list[Store]:
    """Return those where a job ran and had a checkpoint, as they are when their machine has started anew."""
    stores = [Store(folder) for folder in folders]
    found = []
    for store in stores:
        if store.paths(job_id).record.exists():
            record = store.read(job_id)
            # That of a branch has one from the beginning.
            if record.status is Status.RUNNING and (record.parent or store.paths(job_id).resume.exists()):
                record.boot_id, record.resumable = "the boot before", True
                store.write_record(record, durable=False)
                found.append(store)
    return found


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux")
def test_job_with_a_checkpoint_is_resumed_after_a_loss_of_power(
    root: Path, cuts: Callable[[], list[Path]]
) -> None:
    job = tk.submit(fit, job_id="j")
    assert job.result() == 3
    stores = running(cuts(), "j")
    assert len(stores) >= 3
    for store in stores:
        after = tk.attach("j", root=store.root)
        assert after.state is Status.INTERRUPTED
        after.resume()
        assert after.result() == 3


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux")
def test_branch_survives_a_loss_of_power(root: Path, tmp_path: Path, cuts: Callable[[], list[Path]]) -> None:
    job = tk.submit(fit, job_id="j")
    job.wait()
    branched = job.branch(step=job.checkpoints()[0].step, job_id="b")
    assert branched.wait() is Status.COMPLETED
    stores = running(cuts(), "b")
    assert len(stores) >= 2
    for store in stores:
        after = tk.attach("b", root=store.root)
        after.resume()
        assert after.result() == 3


@pytest.mark.parametrize("damaged", [b"", b"{", b'{"runner": 3}', b"\x00" * 100])
def test_handle_that_a_loss_of_power_has_damaged_reads_as_none(root: Path, damaged: bytes) -> None:
    job = tk.submit(fit, job_id="j")
    job.wait()
    record = job.store.read("j")
    record.status, record.finished_at = Status.RUNNING, None
    record.boot_id = "the boot before"
    job.store.write_record(record, durable=False)
    job.paths.handle.write_bytes(damaged)
    assert job.state is Status.INTERRUPTED
    job.resume()
    assert job.result() == 3


@pytest.mark.parametrize("change", [{"boot_id": boot_id()}, {"boot_id": None}, {"host": "elsewhere"}])
def test_handle_that_is_damaged_otherwise_is_an_error(root: Path, change: dict[str, Any]) -> None:
    store, me = Store(root), this_process()
    record = Record(job_id="j", name="j", status=Status.RUNNING, runner="thread", pid=me.pid, host=me.host)
    record.boot_id, record.process_started_at = "the boot before", me.started_at
    store.create(record).close()
    for name, value in change.items():
        setattr(record, name, value)
    store.write_record(record, durable=False)
    store.paths("j").handle.write_bytes(b"{")
    with pytest.raises(RecordError, match=r"handle\.json"):
        store.observe("j")


def test_sync_of_what_is_missing_is_nothing(tmp_path: Path) -> None:
    whole.sync(tmp_path / "missing")


def test_disk_that_cannot_sync_keeps_no_checkpoint(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = checkpoints.sync

    def fails(path: Path) -> None:
        if path.name == "task.pkl":
            raise OSError(5, "Input/output error")
        sync(path)

    monkeypatch.setattr(checkpoints, "sync", fails)
    job = tk.submit(fit)
    assert job.result() == 3
    assert not job.paths.resume.exists()
    assert any("no checkpoint could be saved" in warning for warning in job.warnings())
