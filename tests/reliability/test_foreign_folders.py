"""A root folder that somebody else filled: links, pipes, folders and identities that are not the job's own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import trainkit as tk
from trainkit.api import listing
from trainkit.api.job import Job
from trainkit.errors import RunnerError, StoreError, TrainkitError
from trainkit.files import opening
from trainkit.files.locks import try_lock
from trainkit.files.opening import check_no_link, open_fd, opened
from trainkit.files.owners import Process, boot_id, is_owned, process, runs_job, this_process
from trainkit.files.paths import JobPaths
from trainkit.files.record import Record, Status, encode
from trainkit.files.store import Handle, Store
from trainkit.files.trust import STATE_VARIABLE
from trainkit.panels.catalogue import Catalogue
from trainkit.panels.dashboard import listing_text
from trainkit.panels.feed import JobFeed
from trainkit.runners import process as process_runner
from trainkit.runners.slots import FOLDER_VARIABLE
from trainkit.server.http import to_json
from trainkit.server.jobs import list_jobs
from trainkit.server.messages import JobsRequest
from trainkit.server.roots import Roots
from trainkit.server.site import Site

SECRET = "alias ls=ls\n"
#: Every file of a job that some verb reads or writes.
FILES = [
    *("handle.json", "requests.jsonl", "metrics.jsonl", "events.jsonl", "output.log", "owner.lock", "task.pkl"),
    *("result.pkl", "resume.pt", "resume.previous.pt", "resume.json", "plan.json", "reserve", "checkpoints"),
]


def fit(run: Any) -> dict[str, Any]:
    """Log three steps and leave a checkpoint and a model."""
    import torch

    weight = torch.zeros(1, requires_grad=True)
    run.track(model=torch.nn.Linear(1, 1), optimizer=torch.optim.SGD([weight], lr=0.1))
    for _ in run.epochs(1):
        for _ in run.batches(range(3)):
            run.log(loss=1.0, val_loss=2.0)
    return {"weight": weight.detach()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with one job that has ended, of which each test gets a copy."""
    root = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER_VARIABLE, str(tmp_path_factory.mktemp("queue")))
        patch.setenv(STATE_VARIABLE, str(root / "state"))
        assert tk.submit(fit, root=root, job_id="good").wait(60) is Status.COMPLETED
    return root


@pytest.fixture
def foreign(finished: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> JobPaths:
    """A root with a good job, and a copy of it, STOPPED and resumable, for a test to spoil."""
    monkeypatch.setenv(STATE_VARIABLE, str(finished / "state"))
    shutil.copytree(finished, root, dirs_exist_ok=True)
    good, bad = JobPaths(root, "good"), JobPaths(root, "bad")
    shutil.copytree(good.folder, bad.folder)
    shutil.copyfile(good.model, bad.model)
    fields = json.loads(good.record.read_text())
    bad.record.write_text(json.dumps({**fields, "job_id": "bad", "status": "STOPPED", "resumable": True}))
    return bad


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file outside of the root, which nobody may read or write."""
    path = tmp_path / "victim"
    path.write_text(SECRET)
    return path


def running(paths: JobPaths) -> None:
    """Make the record say that the job runs, by a process of another host: so nobody can tell that it does not."""
    fields = json.loads(paths.record.read_text())
    elsewhere = {"host": "elsewhere", "pid": 7, "process_started_at": 1.0, "boot_id": "other"}
    fields |= {"status": "RUNNING", "runner": "process", "finished_at": None, "ended_by": None, **elsewhere}
    paths.record.write_text(json.dumps(fields))


def lists(store: Store) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield every list of jobs as text."""

    def catalogue() -> str:
        rows = Catalogue(store)
        rows.scan()
        return json.dumps(list(rows.rows.values()))

    site = Site(Roots(store.root, store.root))
    yield (
        "tk.jobs()",
        lambda: repr(listing.jobs(root=store)) + " ".join(job.id for job in listing.jobs(root=store)),
    )
    yield "attach", lambda: repr(listing.attach("good", root=store))
    yield "attach by name", lambda: repr(listing.attach("fit", root=store))
    yield "records", lambda: str(listing.records_of(store))
    yield "HTTP", lambda: to_json(list_jobs(site, JobsRequest())).decode()
    yield "dashboard", catalogue
    yield "dashboard as text", lambda: listing_text(store)


def looks(job: Job) -> Iterator[Callable[[], Any]]:
    """Yield everything that reads one job."""
    yield from (
        job.status,
        job.metrics,
        job.events,
        job.warnings,
        job.logs,
        job.checkpoints,
        job.model,
        job.summary,
    )
    yield from (lambda: job.result(0), lambda: job.exception(0), lambda: repr(job))
    yield JobFeed(job.store, job.id).full


def verbs(job: Job) -> Iterator[Callable[[], Any]]:
    """Yield everything that writes into the folder of a job."""
    yield from (job.stop, job.finish, job.pause, job.checkpoint, job.kill, lambda: job.set(lr=1.0))
    yield from (lambda: job.branch(runner="thread").wait(60), lambda: job.resume(runner="thread"))
    yield from (lambda: job.wait(0.01 if job.store.is_owned(job.record) is None else 60), job.delete)


@pytest.mark.parametrize("live", [False, True], ids=["ended", "running"])
@pytest.mark.parametrize("name", [*FILES, "", ".json", ".pt"])
def test_no_verb_follows_a_link_among_the_files_of_a_job(
    foreign: JobPaths, victim: Path, name: str, live: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither is the file read or changed that a link leads to, nor are files in a folder that one leads to."""
    monkeypatch.setattr("trainkit.api.job.ACKNOWLEDGE_S", 0.01)
    monkeypatch.setattr("trainkit.api.job.KILL_S", 0.01)
    job = Job("bad", foreign.root)
    if live:
        running(foreign)
    path = {"": foreign.folder, ".json": foreign.record, ".pt": foreign.model}.get(name, foreign.folder / name)
    outside = victim.parent / "outside"
    if path.is_dir():
        path.rename(outside)
        path.symlink_to(outside)
    else:
        outside.mkdir()
        path.unlink(missing_ok=True)
        path.symlink_to(outside / victim.name)
    victim = victim.rename(outside / victim.name)
    before = {file: file.read_bytes() for file in outside.rglob("*") if file.is_file()}
    shown = []
    for act in [*looks_of(job), *verbs(job)]:
        with contextlib.suppress(TrainkitError, TimeoutError):
            shown.append(str(act()))
    assert {file: file.read_bytes() for file in outside.rglob("*") if file.is_file()} == before
    assert SECRET not in "".join(shown)


def looks_of(job: Job) -> list[Callable[[], Any]]:
    """Return :func:`looks`, without the panel where the job cannot be read at all."""
    found = []
    with contextlib.suppress(TrainkitError):
        for look in looks(job):
            found.append(look)
    return found


def test_a_root_behind_links_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The root, ``artifacts``, ``artifacts/jobs`` and ``models`` may be links to another disk."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "queue"))
    real = tmp_path / "disk"
    for folder in ("artifacts", "jobs", "models", "root"):
        (real / folder).mkdir(parents=True)
    (tmp_path / "linked").symlink_to(real / "root")
    (real / "root" / "artifacts").symlink_to(real / "artifacts")
    (real / "root" / "models").symlink_to(real / "models")
    (real / "artifacts" / "jobs").symlink_to(real / "jobs")
    job = tk.submit(fit, root=tmp_path / "linked", job_id="a")
    assert job.wait(60) is Status.COMPLETED
    assert len(job.metrics()) == 3
    assert job.model()
    again = job.replay(runner="thread")
    assert again.wait(60) is Status.COMPLETED
    job.delete()
    assert [each.id for each in listing.jobs(root=tmp_path / "linked")] == [again.id]


@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
@pytest.mark.parametrize("name", [*FILES, ".json"])
@pytest.mark.parametrize("live", [False, True], ids=["ended", "running"])
def test_what_is_not_a_file_hides_no_other_job(foreign: JobPaths, name: str, kind: str, live: bool) -> None:
    """No list waits or fails; what cannot be read of the one job is an error of trainkit."""
    path = foreign.record if name == ".json" else foreign.folder / name
    job = Job("bad", foreign.root)
    if live:
        running(foreign)
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    make = {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "link": lambda: path.symlink_to("/nowhere")}
    make[kind]()
    for what, look in lists(job.store):
        assert "good" in (shown := look()) or "fit" in shown, what
    for look in looks_of(job):
        with contextlib.suppress(TrainkitError, TimeoutError):
            look()


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_APPEND])
def test_a_pipe_is_opened_by_nobody(tmp_path: Path, flags: int) -> None:
    """Reading would wait for a writer, and writing for a reader."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StoreError, match="not a regular file but a pipe"):
        open_fd(tmp_path / "pipe", flags)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_link_at_any_depth_of_a_job_is_refused(tmp_path: Path, depth: int) -> None:
    """The folder of the job, one below it, or the file."""
    parts = ["a", "checkpoints", "1.pt"]
    jobs = tmp_path / "artifacts" / "jobs"
    real = tmp_path / "real"
    (real / "checkpoints").mkdir(parents=True)
    for file in (real / "1.pt", real / "checkpoints" / "1.pt"):
        file.write_bytes(b"x")
    link = jobs.joinpath(*parts[: depth + 1])
    link.parent.mkdir(parents=True)
    link.symlink_to([real, real / "checkpoints", real / "1.pt"][depth])
    path = jobs.joinpath(*parts)
    assert path.read_bytes() == b"x"
    for look in (lambda: opened(path, "rb"), lambda: check_no_link(path), lambda: opened(path, "ab")):
        with pytest.raises(StoreError, match="is a link"):
            look()


def test_opening_leaves_no_descriptor_behind(tmp_path: Path) -> None:
    """Neither where it succeeds nor where it is refused."""
    folder = tmp_path / "artifacts" / "jobs" / "a" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "1.pt").write_bytes(b"x")
    (folder / "2.pt").symlink_to(folder / "1.pt")
    before = len(os.listdir("/proc/self/fd"))
    with opened(folder / "1.pt", "rb") as file:
        assert file.read() == b"x"
    for name in ("2.pt", "3.pt", "", "1.pt/x"):
        with pytest.raises(OSError):
            opened(folder / name, "rb")
    assert len(os.listdir("/proc/self/fd")) == before


# --- processes that are not the job's ------------------------------------------------------------


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process of this user that has nothing to do with any job."""
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as started:
        yield started
        started.kill()


def planted(root: Path, identity: Process, *, locked: bool | None) -> Job:
    """Return a job whose files name a process.

    Args:
        root: of the job.
        identity: of the process.
        locked: whether the owner's lock is held; None where there is no such file.
    """
    store = Store(root)
    paths = store.paths("planted")
    paths.folder.mkdir(parents=True)
    paths.requests.touch()
    record = Record(job_id="planted", name="looks hung", status=Status.RUNNING, runner="process")
    paths.record.write_bytes(encode(record))
    store.write_handle("planted", Handle(runner="process", processes=[identity, identity]))
    if locked is False:
        paths.owner_lock.touch()
    return Job("planted", store)


@pytest.mark.parametrize("locked", [None, False, True], ids=["no lock", "a free lock", "a lock held by another"])
def test_kill_leaves_a_process_alone_that_does_not_hold_the_lock(
    root: Path, stranger: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, locked: bool | None
) -> None:
    """All that a handle says of a process can be read by anybody, and be written into another handle."""
    monkeypatch.setattr("trainkit.api.job.KILL_S", 0.2)
    job = planted(root, process(stranger.pid), locked=locked)
    holder = None
    if locked:
        # By a process that is neither the one that is named nor its parent.
        code = (
            "import fcntl,sys; f=open(sys.argv[1],'w'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
        )
        holder = subprocess.Popen(
            ["python3", "-c", code, str(job.paths.owner_lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(RunnerError, match=f"process {stranger.pid}.*does not hold the lock"):
            job.kill()
        holder.communicate(b"\n")
    else:
        assert job.state is Status.INTERRUPTED
        assert job.kill() is Status.INTERRUPTED
    assert stranger.poll() is None


@pytest.mark.parametrize("pid", [1, 0, -1, -5, 2**31, 2**63, 2**64])
def test_no_signal_is_sent_to_a_pid_that_means_more_than_a_job(
    root: Path, monkeypatch: pytest.MonkeyPatch, pid: int
) -> None:
    """``killpg(1, SIGKILL)`` ends every process of the user."""
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr("trainkit.api.job.KILL_S", 0.2)
    monkeypatch.setattr(process_runner.os, "killpg", lambda pid, number: sent.append((pid, number)))
    monkeypatch.setattr(process_runner, "runs_job", lambda identity, lock: True)
    started_at = psutil.Process(1).create_time()
    job = planted(root, Process(pid, started_at, boot_id(), socket.gethostname()), locked=None)
    with contextlib.suppress(RunnerError):
        process_runner.kill(job.store, job.record)
    with contextlib.suppress(RunnerError):
        job.kill()
    if pid <= 1:
        with pytest.raises(RunnerError, match="is not that of a job"):
            process_runner.kill_session(pid)
    assert sent == []


def test_a_process_that_holds_the_lock_runs_the_job(root: Path, stranger: subprocess.Popen[bytes]) -> None:
    """Also when the file is removed; and so does a child that the holder has started."""
    path = JobPaths(root, "a").owner_lock
    path.parent.mkdir(parents=True)
    assert runs_job(this_process(), path) is False
    lock = try_lock(path)
    assert lock is not None
    assert runs_job(this_process(), path) is True
    assert runs_job(process(stranger.pid), path) is True  # a child of this one
    assert runs_job(process(os.getppid()), path) is False
    path.unlink()
    assert runs_job(this_process(), path) is True
    assert is_owned(path, [this_process()]) is True
    lock.close()
    assert is_owned(path, [this_process()]) is False


def test_process_of_another_user_is_not_killed_and_the_error_says_so(
    root: Path, stranger: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has open cannot be seen; it does not follow that the files were copied."""
    monkeypatch.setattr(process_runner, "runs_job", lambda identity, lock: None)
    job = planted(root, process(stranger.pid), locked=None)
    with pytest.raises(RunnerError, match=f"process {stranger.pid}.*is another user's"):
        process_runner.kill(job.store, job.record)
    assert stranger.poll() is None


def test_kill_ends_a_worker_that_has_not_received_the_lock_yet(
    root: Path, stranger: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that still imports torch: its supervisor holds the lock, here this process."""
    job = planted(root, process(stranger.pid), locked=None)
    lock = try_lock(job.paths.owner_lock)
    assert lock is not None
    process_runner.kill(job.store, job.record)
    assert stranger.wait(30) == -signal.SIGKILL
    lock.close()


def test_links_are_refused_where_the_system_has_no_descriptors_of_folders(
    foreign: JobPaths, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows."""
    monkeypatch.setattr(opening.os, "supports_dir_fd", set())
    foreign.metrics.unlink()
    foreign.metrics.symlink_to(victim)
    with pytest.raises(StoreError, match="is a link"):
        Job("bad", foreign.root).metrics()
