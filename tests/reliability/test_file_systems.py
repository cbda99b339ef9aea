"""File systems without locks or renames, damaged lists of checkpoints, and files of any size."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import trainkit as tk
from trainkit.api.job import Job
from trainkit.errors import CheckpointError, RecordError, StoreError
from trainkit.files import claims, locks
from trainkit.files.locks import try_lock
from trainkit.files.record import MOST_RECORD_BYTES, Record, Status, encode
from trainkit.files.store import SILENCE_S, Store
from trainkit.files.streams import MOST_LINE_BYTES, encode_line, tail
from trainkit.files.whole import make_folders
from trainkit.panels.catalogue import Catalogue
from trainkit.panels.series import CHUNK_BYTES, History
from trainkit.resuming.checkpoints import whole_resume
from trainkit.server.http import to_json
from trainkit.server.jobs import list_jobs
from trainkit.server.messages import JobRequest, JobsRequest, MetricsRequest
from trainkit.server.roots import Roots
from trainkit.server.site import Site
from trainkit.server.streams import Cursor, Follower, metrics

MB = 1 << 20


def fit(run: Any, steps: int = 6) -> int:
    """Track something, so that there are checkpoints."""
    import torch

    run.track(model=torch.nn.Linear(1, 1))
    run.checkpoint_every(steps=2)
    for _ in run.batches(range(steps)):
        run.log(loss=1.0)
    return steps


def tree(root: Path) -> list[Path]:
    """Return everything below a folder."""
    return sorted(root.rglob("*"))


# --- without locks -------------------------------------------------------------------------------


def without_locks(monkeypatch: pytest.MonkeyPatch, number: int | None) -> None:
    """Make ``flock`` of owners' locks fail with a number; with None it succeeds for everybody."""
    real = fcntl.flock

    def flock(fd: int, operation: int) -> None:
        if not os.readlink(f"/proc/self/fd/{fd}").endswith(("owner.lock", ".json")):
            real(fd, operation)
        elif number is not None:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks.fcntl, "flock", flock)


BROKEN = [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, None]
NAMES = ["ENOLCK", "ENOTSUP", "ENOSYS", "EINVAL", "given to everybody"]


@pytest.mark.parametrize("runner", ["thread", "process"])
@pytest.mark.parametrize("number", BROKEN, ids=NAMES)
def test_a_root_without_locks_is_refused_and_stays_as_it_was(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: int | None, runner: str
) -> None:
    without_locks(monkeypatch, number)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(
        StoreError, match=r"no working file locks \(flock\).*choose a root on another file system.*root="
    ):
        tk.submit(fit, runner=runner, job_id="a")
    assert tree(root) == []
    assert len(os.listdir("/proc/self/fd")) == before
    (root / "models").mkdir()
    with pytest.raises(StoreError):
        tk.submit(fit, root=root / "new" / "root")
    assert tree(root) == [root / "models"]
    monkeypatch.undo()


@pytest.mark.parametrize("number", BROKEN[:-1], ids=NAMES[:-1])
def test_a_job_on_a_root_without_locks_is_listed_with_advice(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    store = Store(root)
    lock = store.create(Record(job_id="a", name="a", status=Status.RUNNING, runner="process"))
    lock.close()
    without_locks(monkeypatch, number)
    assert "no working file locks" in tk.jobs(root=root).unreadable["a"]
    with pytest.raises(RecordError, match="no working file locks"):
        store.observe("a")


def test_a_job_is_not_resumed_where_everybody_gets_its_lock(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = tk.submit(fit, steps=4, job_id="a")
    job.wait(60)
    fields = json.loads(job.paths.record.read_text())
    job.paths.record.write_text(json.dumps({**fields, "status": "STOPPED"}))
    before = job.paths.record.read_bytes()
    without_locks(monkeypatch, None)
    with pytest.raises(StoreError, match="two owners can hold the same lock"):
        job.resume()
    assert job.paths.record.read_bytes() == before


def test_only_the_folders_that_were_missing_are_made(tmp_path: Path) -> None:
    assert make_folders(tmp_path / "a" / "b") == [tmp_path / "a" / "b", tmp_path / "a"]
    assert make_folders(tmp_path / "a" / "b") == []
    assert make_folders(tmp_path / "a" / "c") == [tmp_path / "a" / "c"]


# --- without renames -----------------------------------------------------------------------------


def ended(root: Path) -> Job:
    """Return a job that has ended, with files and folders of each kind."""
    store = Store(root)
    store.create(Record(job_id="a", name="a", status=Status.COMPLETED, finished_at=1.0)).close()
    paths = store.paths("a")
    (paths.checkpoints / "deeper").mkdir(parents=True)
    (paths.checkpoints / "deeper" / "1.pt").write_bytes(b"x")
    paths.resume.write_bytes(b"x")
    paths.task.symlink_to(root)
    return Job("a", store)


@pytest.fixture
def no_rename(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the rename of a folder fail, as that of one of a lower layer of an overlay does."""
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self.is_dir():
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)


@pytest.mark.usefixtures("no_rename")
def test_a_job_is_deleted_where_its_folder_cannot_be_renamed(root: Path) -> None:
    job = ended(root)
    (root / "other").write_text("stays")
    job.delete()
    assert [path for path in tree(root) if path.is_file()] == [root / "other"]
    assert not job.paths.folder.exists()


@pytest.mark.usefixtures("no_rename")
def test_a_resume_that_comes_between_gives_way(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It makes the lock anew, in the folder that is about to go; until the record goes, there is no other job."""
    job = ended(root)
    real, seen = Path.rmdir, []

    def rmdir(self: Path) -> None:
        if self == job.paths.folder and len(seen) < 2:
            lock = try_lock(job.paths.owner_lock)
            assert lock is not None
            seen.append(sorted(path.name for path in self.iterdir()))
            assert job.paths.record.exists()
            lock.close()
        real(self)

    monkeypatch.setattr(Path, "rmdir", rmdir)
    job.delete()
    assert seen == [["owner.lock"], ["owner.lock"]]
    assert not job.paths.record.exists()


@pytest.mark.usefixtures("no_rename")
def test_a_folder_that_is_filled_all_the_time_is_an_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = ended(root)
    monkeypatch.setattr(claims, "_RMDIR_ATTEMPTS", 2)
    monkeypatch.setattr(Path, "rmdir", lambda self: os.rmdir(self.parent))
    with pytest.raises(StoreError):
        job.delete()
    assert job.paths.record.exists()


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[tuple[Path, Callable[[], Path]]]:
    """A folder for a lower layer, and what mounts an overlay over it; needs the right to mount."""
    lower, upper, work, mounted = (tmp_path / name for name in ("lower", "upper", "work", "mounted"))
    for folder in (lower, upper, work, mounted):
        folder.mkdir()

    def mount() -> Path:
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        command = ["mount", "-t", "overlay", "overlay", "-o", options, str(mounted)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no overlay can be mounted here: {done.stderr.strip()}")
        return mounted

    yield lower, mount
    if os.path.ismount(mounted):
        subprocess.run(["umount", str(mounted)], check=True)


@pytest.mark.skipif(shutil.which("mount") is None or os.getuid() != 0, reason="mounts an overlay")
def test_a_job_of_a_lower_layer_is_deleted(overlay: tuple[Path, Callable[[], Path]]) -> None:
    """As in a container whose image has the job."""
    lower, mount = overlay
    ended(lower)
    mounted = mount()
    job = Job("a", mounted)
    with pytest.raises(OSError, match="cross-device"):
        job.paths.folder.rename(job.paths.folder.with_name("elsewhere"))
    job.delete()
    assert [path for path in tree(mounted) if path.is_file()] == []
    assert not job.paths.folder.exists()


@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
def test_a_job_is_deleted_whose_lock_is_not_a_file(root: Path, kind: str) -> None:
    job = ended(root)
    lock = job.paths.owner_lock
    lock.unlink()
    {"folder": lock.mkdir, "pipe": lambda: os.mkfifo(lock), "link": lambda: lock.symlink_to(root)}[kind]()
    job.delete()
    assert [path for path in tree(root) if not path.is_dir()] == []


# --- damaged lists of checkpoints ----------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b"\xff", b"\x00" * 10, b"[" * 100_000, b'[{"path":1}]', b'[{"path":"x"}]', None],
    ids=lambda content: str(content)[:12],
)
def test_the_record_has_the_checksum_of_the_newest_checkpoint(root: Path, content: bytes | None) -> None:
    job = tk.submit(fit, job_id="a")
    assert job.wait(60) is Status.COMPLETED
    listed = job.checkpoints()
    manifest = job.paths.folder / "resume.json"
    manifest.unlink()
    if content is not None:
        manifest.write_bytes(content)
    path, info = whole_resume(job.paths)
    assert path == job.paths.resume
    assert info.sha256 == job.record.checkpoint.sha256
    assert listed[-1].step in [info.step for info in job.checkpoints()]
    assert job.branch(steps=8, runner="thread").wait(60) is Status.COMPLETED
    job.paths.resume.write_bytes(job.paths.resume.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match="resume.pt does not match its sha256"):
        whole_resume(job.paths)


def test_a_damaged_list_is_an_error_where_the_record_has_no_checksum(root: Path) -> None:
    job = tk.submit(fit, job_id="a")
    job.wait(60)
    fields = json.loads(job.paths.record.read_text())
    job.paths.record.write_text(json.dumps({**fields, "checkpoint": None}))
    assert whole_resume(job.paths)
    (job.paths.folder / "resume.json").write_bytes(b"{")
    with pytest.raises(CheckpointError, match="resume.json"):
        whole_resume(job.paths)


# --- files of any size ---------------------------------------------------------------------------


def line(step: int) -> bytes:
    """Return a line of metrics."""
    return encode_line({"attempt": 1, "epoch": 1, "step": step, "time": 1.0, "loss": 1.0})


def with_a_long_line(path: Path, size_bytes: int, *, first: bool = False) -> None:
    """Write a line, unless the long one should be the first, a sparse one of so many bytes, and another line."""
    with open(path, "wb") as file:
        file.write(b"" if first else line(1))
        file.seek(size_bytes, os.SEEK_CUR)
        file.write(b"\n" + line(2))


def peak_bytes(act: Callable[[], object]) -> int:
    """Return how much memory of Python a call takes at most."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("limit_bytes", [-1, 10, MB])
def test_a_long_line_is_passed_over_in_little_memory(tmp_path: Path, limit_bytes: int) -> None:
    path = tmp_path / "stream.jsonl"
    with_a_long_line(path, 300 * MB)
    found: list[dict[str, Any]] = []
    unreadable: list[bytes] = []

    def read() -> None:
        offset = 0
        while offset < path.stat().st_size:
            lines, offset = tail(path, offset, limit_bytes=limit_bytes, on_unreadable=unreadable.append)
            found.extend(lines)

    assert peak_bytes(read) < 6 * MOST_LINE_BYTES
    assert [each["step"] for each in found] == [1, 2]
    assert len(unreadable) == 1
    assert len(unreadable[0]) == MOST_LINE_BYTES


def test_a_line_that_is_being_written_is_waited_for(tmp_path: Path) -> None:
    """One that is too long already is passed over, also what is appended to it later."""
    path = tmp_path / "stream.jsonl"
    path.write_bytes(line(1) + b'{"step":')
    assert tail(path)[1] == len(line(1))
    path.write_bytes(line(1) + b" " * (MOST_LINE_BYTES + 5))
    lines, offset = tail(path)
    assert (len(lines), offset) == (1, path.stat().st_size)
    with open(path, "ab") as file:
        file.write(b" rest\n" + line(2))
    assert [each["step"] for each in tail(path, offset)[0]] == [2]


@pytest.mark.parametrize("first", [False, True])
def test_http_passes_over_long_lines_and_comes_to_the_end(root: Path, first: bool) -> None:
    job = ended(root)
    job.paths.task.unlink()  # links among the files of a job are refused
    for path in (job.paths.metrics, job.paths.events):
        with_a_long_line(path, 100 * MB, first=first)
    expected = [2] if first else [1, 2]
    site = Site(Roots(root, root))
    found, since, more = [], 0, True
    while more:
        answer = json.loads(to_json(metrics(site, MetricsRequest(job_id="a", since=since))))
        found += answer["metrics"]
        since, more = answer["next"], answer["more"]
    assert [each["step"] for each in found] == expected
    follower = Follower(site, JobRequest(job_id="a"), Cursor())
    sent: list[tuple[str, Any]] = []
    while not follower.over and len(sent) < 20:
        sent += [(name, json.loads(to_json(answer))) for name, answer in follower.news()]
    assert sent[-1][0] == "end"
    for kind in ("metrics", "events"):
        assert [each["step"] for name, answer in sent if name == kind for each in answer[kind]] == expected
    assert follower.at_end


@pytest.mark.parametrize("size_bytes", [CHUNK_BYTES - 1, CHUNK_BYTES, 3 * CHUNK_BYTES, MOST_LINE_BYTES, 12 * MB])
def test_a_panel_draws_what_follows_a_long_line(tmp_path: Path, size_bytes: int) -> None:
    path = tmp_path / "metrics.jsonl"
    with_a_long_line(path, size_bytes)
    history = History(path)
    history.read()
    history.read()
    assert history.metrics["loss"].x.tolist() == [1, 2]


def test_a_panel_draws_a_line_that_is_longer_than_what_is_read_at_once(tmp_path: Path) -> None:
    """That of a hundred thousand metrics."""
    path = tmp_path / "metrics.jsonl"
    names = {f"metric-{number:090}": 1.0 for number in range(2 * CHUNK_BYTES // 100)}
    path.write_bytes(encode_line({"step": 1, **names}) + line(2))
    history = History(path)
    history.read()
    assert len(history.metrics) == len(names) + 1


@pytest.mark.parametrize("name", ["a.json", "a/handle.json"])
def test_an_enormous_record_is_unreadable_and_hides_no_other(root: Path, name: str) -> None:
    ended(root).paths.task.unlink()
    store = Store(root)
    paths = store.paths("a")
    paths.record.write_bytes(encode(Record(job_id="a", name="a", status=Status.RUNNING, runner="process")))
    store.create(Record(job_id="good", name="good", status=Status.COMPLETED)).close()
    with open(paths.record.parent / name, "ab") as file:
        file.truncate(4 << 30)

    def look() -> None:
        jobs = tk.jobs(root=root)
        assert [job.id for job in jobs] == ["good"]
        assert f"more than the {MOST_RECORD_BYTES:,}" in jobs.unreadable["a"]
        catalogue = Catalogue(store)
        catalogue.scan()
        assert {row[2] for row in catalogue.rows.values()} == {"COMPLETED", "UNREADABLE"}
        answer = json.loads(to_json(list_jobs(Site(Roots(root, root)), JobsRequest())))
        assert [job["job_id"] for job in answer["jobs"]] == ["good"]
        assert [job["job_id"] for job in answer["unreadable"]] == ["a"]

    assert peak_bytes(look) < 8 * MB


def test_silence_is_one_number(root: Path) -> None:
    """The panel and the message of a record begin to report it at the same moment."""
    from trainkit.files.owners import Process, Pulse
    from trainkit.files.store import Handle
    from trainkit.panels.feed import JobFeed

    now = [0.0]
    store = Store(root, pulse=Pulse(clock=lambda: now[0]))
    store.create(Record(job_id="a", name="a", status=Status.RUNNING, runner="process", heartbeat_at=1.0)).close()
    store.write_handle("a", Handle(runner="process", processes=[Process(7, 1.0, "other", "away")]))
    feed = JobFeed(store, "a", ticks=lambda: now[0])
    reports = []
    for now[0] in (0.0, SILENCE_S - 1, SILENCE_S):
        record = store.observe("a")
        reports.append((bool(feed.card(record)["silent_s"]), "no sign of life" in record.message))
    assert reports == [(False, False), (False, False), (True, True)]
