"""Full disks, folders that are read-only or gone, damaged files: named errors or warnings, nothing lost."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import trainkit as tk
from trainkit.errors import CheckpointError, RecordError, StoreError, TrainkitError
from trainkit.files.record import Record, Status
from trainkit.files.store import Store
from trainkit.files.streams import tail
from trainkit.resuming.checkpoints import load_resume, save_resume, whole_resume
from trainkit.runners.outcomes import outcome_of

HERE = Path(__file__).parent
#: Dozens of processes each: what takes seconds here takes minutes on a busy machine.
pytestmark = pytest.mark.timeout(300)
Eventually = Callable[..., None]


def trains(run: Any, steps: int = 10**9, pause_s: float = 0.002) -> int:
    """A loop with something to save, which checks its batches by what it was given back."""
    import time

    import torch

    model = torch.nn.Linear(100, 100)
    run.track(model=model)
    run.checkpoint_every(steps=20)
    for _ in run.batches(range(steps)):
        time.sleep(pause_s)
        run.log(loss=1.0 / run.step)
    return steps


# --- a full disk -----------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int = 4) -> Iterator[Path]:
    """A disk of its own.

    Raises:
        OSError: none can be made here.
    """
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(folder)], capture_output=True, text=True
    )
    if made.returncode:
        raise OSError(made.stderr)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk; who is not root has none."""
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(small_disk(tmp_path / "disk"))
        except OSError as error:
            pytest.xfail(f"no disk can be mounted here: {error}")
        yield folder


def fill(disk: Path) -> Path:
    """Leave no room at all."""
    filler = disk / "filler"
    with open(filler, "ab", buffering=0) as file:
        for size in (65536, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
    return filler


def no_room(disk: Path) -> bool:
    """Whether nothing can be written."""
    try:
        (disk / "probe").write_bytes(bytes(5000))
    except OSError as error:
        return error.errno == errno.ENOSPC
    finally:
        (disk / "probe").unlink(missing_ok=True)
    return False


@pytest.mark.parametrize("runner", ["thread", "process"])
def test_a_disk_that_is_full_for_a_while_costs_nothing(
    root: Path, disk: Path, eventually: Eventually, runner: str
) -> None:
    """The training goes on, all that was logged is written when there is room again, and a warning tells of it."""
    job = tk.submit(trains, runner=runner, root=disk)
    eventually(lambda: job.record.step > 40, within_s=60)
    filler = fill(disk)
    assert no_room(disk)
    written = job.paths.metrics.stat().st_size
    time.sleep(1.0)
    assert job.state is Status.RUNNING
    assert whole_resume(job.paths)[1].step is not None
    fill(disk)
    filler.unlink()
    eventually(lambda: job.paths.metrics.stat().st_size > written + 20_000)
    job.stop()
    assert job.wait(20) is Status.STOPPED
    steps = [line["step"] for line in tail(job.paths.metrics)[0]]
    assert steps == list(range(1, len(steps) + 1))
    warnings = [event["message"] for event in job.events() if event["event"] == "warning"]
    assert any("No space left on device" in text and "The training goes on" in text for text in warnings), warnings
    assert load_resume(job.paths)[1].step == job.record.step


@pytest.mark.parametrize("runner", ["thread", "process"])
def test_a_job_on_a_full_disk_can_be_stopped_and_goes_on_later(
    root: Path, disk: Path, eventually: Eventually, runner: str
) -> None:
    """Stop works without a byte of room; the last checkpoint is whole, and resuming it reaches the end."""
    job = tk.submit(trains, steps=600, pause_s=0.003, runner=runner, root=disk)
    eventually(lambda: job.record.checkpoint is not None, within_s=60)
    filler = fill(disk)
    assert no_room(disk)
    job.stop()
    assert job.wait(30) is Status.STOPPED
    saved, info = load_resume(job.paths)
    assert saved["tracked"]["model"]["weight"].shape == (100, 100)
    filler.unlink()
    assert job.resume(runner="thread") is not Status.STOPPED
    assert job.result(60) == 600
    steps = {line["step"] for line in tail(job.paths.metrics)[0]}
    assert steps >= set(range(info.step or 0, 601))


def test_a_job_that_completes_on_a_full_disk_says_so(root: Path, disk: Path, eventually: Eventually) -> None:
    """The terminal state finds the room that was kept, and tells of what did not."""

    def fit(run: Any, disk: str) -> int:
        run.log(loss=1.0)
        while not os.path.exists(os.path.join(disk, "filler")):
            time.sleep(0.01)
        for _ in range(3000):
            run.log(loss=0.5, filler=1.0 / 3.0)
        return 3

    job = tk.submit(fit, disk=str(disk), root=disk)
    eventually(lambda: job.paths.reserve.exists() and job.record.status is Status.RUNNING)
    fill(disk)
    assert job.wait(30) is Status.COMPLETED
    assert job.result() == 3
    lines = len(tail(job.paths.metrics)[0])
    assert lines == 3001 or "could not be written" in job.record.message, (lines, job.record.message)


def test_a_job_that_has_much_to_write_on_a_full_disk_can_be_stopped(
    root: Path, disk: Path, eventually: Eventually
) -> None:
    """What waits to be written, more than the room that was kept, does not take that room from the end."""
    job = tk.submit(trains, pause_s=0.0, root=disk)
    eventually(lambda: job.record.checkpoint is not None, within_s=60)
    fill(disk)
    assert no_room(disk)
    # 10,000 lines are a megabyte, and the room that was kept is 64 kB.
    at = outcome_of(job.store, job.record).run.step  # type: ignore[union-attr]
    eventually(lambda: outcome_of(job.store, job.record).run.step > at + 10_000, within_s=60)  # type: ignore[union-attr]
    job.stop()
    assert job.wait(30) is Status.STOPPED
    assert "the last of its metrics could not be written" in job.record.message
    assert load_resume(job.paths)[0]["tracked"]["model"]["weight"].shape == (100, 100)


def test_nothing_is_half_made_on_a_full_disk(root: Path, disk: Path) -> None:
    """Submitting there is an error that names the place, and leaves nothing."""
    Store(disk).create(Record(job_id="old", name="old", status=Status.QUEUED, runner="thread")).close()
    fill(disk)
    with pytest.raises(StoreError, match=r"No space left on device; free some"):
        tk.submit(lambda run: None, root=disk)
    assert Store(disk).job_ids() == ["old"]
    assert [path.name for path in (disk / "artifacts" / "jobs").iterdir() if path.is_dir()] == ["old"]


def test_the_full_disk_finds_a_checkpoint_that_is_written_in_place(disk: Path) -> None:
    """The known-bad way leaves nothing to go on from."""
    path = disk / "resume.pt"
    torch.save({"weights": torch.zeros(100_000)}, path)
    filler = disk / "filler"
    filler.write_bytes(bytes(3_500_000))
    with pytest.raises((OSError, RuntimeError)):
        torch.save({"weights": torch.zeros(200_000)}, path)
    with pytest.raises(Exception):  # noqa: B017 - whatever torch says of it
        torch.load(path, weights_only=True)


# --- folders without rights, or gone ---------------------------------------------------------------


def as_nobody(script: str, *arguments: object) -> str:
    """Run a script as a user without rights; all modules are imported before."""
    code = """
        import os, sys
        import trainkit.cli, trainkit.api.launching, trainkit.api.listing, trainkit.api.view
        import trainkit.runners.thread, trainkit.runners.process, trainkit.api.attempts, trainkit as tk
        from trainkit.files.store import Store
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
        root = sys.argv[1]
    """
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code) + textwrap.dedent(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "TRAINKIT_QUEUE": "/tmp/trainkit-nobody-tests"},
    )
    assert out.returncode == 0, out.stderr
    return out.stdout


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A folder that everybody can come to."""
    if os.geteuid() != 0:
        pytest.xfail("only root can become somebody else")
    folder = Path("/tmp") / f"trainkit-shared-{os.getpid()}"
    folder.mkdir(mode=0o755)
    yield folder
    shutil.rmtree(folder)


def test_somebody_elses_jobs_can_be_seen_and_nothing_else(
    root: Path, shared: Path, eventually: Eventually
) -> None:
    """Who may only read sees all jobs as they are; what needs to write is an error that names the place."""
    job = tk.submit(trains, root=shared, job_id="theirs")
    eventually(lambda: job.record.step > 3, within_s=60)
    lost = Store(shared).create(Record(job_id="lost", name="lost", status=Status.QUEUED, runner="thread"))
    lost.close()
    secret = Store(shared).create(Record(job_id="secret", name="secret", status=Status.QUEUED, runner="thread"))
    secret.close()
    Store(shared).paths("secret").record.chmod(0o600)
    script = """
        jobs = tk.jobs(root=root)
        print({job.id: str(job.state) for job in jobs}, sorted(jobs.unreadable))
        theirs, lost = tk.attach("theirs", root=root), tk.attach("lost", root=root)
        for action in (theirs.stop, lambda: tk.submit(print, root=root), lost.delete):
            try:
                action()
                print("done?")
            except tk.TrainkitError as error:
                print(type(error).__name__, *(part in str(error) for part in ("Permission denied", root, "root=")))
    """
    out = as_nobody(script, shared).splitlines()
    assert out[0] in (
        "{'lost': 'INTERRUPTED', 'theirs': 'RUNNING'} ['secret']",
        "{'theirs': 'RUNNING', 'lost': 'INTERRUPTED'} ['secret']",
    )
    assert out[1:] == ["StoreError True True True"] * 3
    assert len(list((shared / "artifacts" / "jobs").iterdir())) == 6
    job.stop()
    assert job.wait(20) is Status.STOPPED
    eventually(lambda: not job.paths.reserve.exists())  # the last file that the job's thread takes away


@pytest.mark.parametrize("runner", ["thread", "process"])
def test_a_store_that_is_removed_under_a_job(root: Path, tmp_path: Path, runner: str) -> None:
    """The training goes to its end, nobody prints, nothing comes back, nobody is left; asking is a named error."""
    script = f"""
        import shutil, sys, time
        sys.path.insert(0, {str(HERE)!r})
        import ends, trainkit as tk
        job = tk.submit(ends.waits_for, path=sys.argv[2], runner={runner!r}, root=sys.argv[1])
        while not job.record.step: time.sleep(0.01)
        handle = job.store.handle(job.id)
        shutil.rmtree(sys.argv[1])
        time.sleep(0.5)
        open(sys.argv[2], "w").close()
        from trainkit.files.owners import is_running, this_process
        others = [each for each in handle.processes if each.pid != this_process().pid]
        give_up_at = time.monotonic() + 20
        while any(map(is_running, others)) and time.monotonic() < give_up_at: time.sleep(0.02)
        print([is_running(each) for each in others])
        try:
            job.result(5)
        except tk.TrainkitError as error:
            print(type(error).__name__)
    """
    gone = tmp_path / "gone"
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(gone), str(tmp_path / "end")],
        capture_output=True,
        text=True,
        timeout=250,
    )
    told = "[]" if runner == "thread" else "[False, False]"
    assert (out.returncode, out.stderr, out.stdout.splitlines()) == (0, "", [told, "UnknownJobError"])
    assert not [path for path in gone.rglob("*") if path.is_file()]


# --- damaged files ---------------------------------------------------------------------------------

GOOD = (
    b'{"schema_version":1,"job_id":"bad","name":"bad","status":"COMPLETED","runner":"thread","created_at":1.0%s}\n'
)


def link_in_a_circle(path: Path) -> None:
    path.symlink_to(path)


#: What may lie where a record should.  True: it can be read all the same.
RECORDS: dict[str, tuple[bytes | Callable[[Path], object], bool]] = {
    "empty": (b"", False),
    "cut": (GOOD[:60], False),
    "random bytes": (bytes(range(256)), False),
    "zeros, as after a crash of the system": (bytes(4096), False),
    "text": (b"hello", False),
    "null": (b"null", False),
    "a list": (b"[]", False),
    "a number": (b"7", False),
    "no status": (b'{"schema_version":1,"job_id":"bad","name":"bad"}', False),
    "a status that is none": (GOOD.replace(b"COMPLETED", b"COMPLETE") % b"", False),
    "of another job": (GOOD.replace(b'"job_id":"bad"', b'"job_id":"good"') % b"", False),
    "of a newer trainkit": (GOOD.replace(b":1,", b":99,", 1) % b"", False),
    "a step of text": (GOOD % b',"step":"seven"', False),
    "a NaN literal": (GOOD % b',"loss":NaN', False),
    "nested deeply": (b"[" * 200_000, False),
    "two objects": (GOOD % b"" + GOOD % b"", False),
    "UTF-16": ((GOOD % b"").decode().encode("utf-16"), False),
    "a folder": (Path.mkdir, False),
    "a link to nowhere": (lambda path: path.symlink_to("nowhere"), False),
    "a link in a circle": (link_in_a_circle, False),
    "a pipe": (os.mkfifo, False),
    "a time beyond all clocks": (GOOD % b',"started_at":1e300,"finished_at":"Infinity","progress":"NaN"', True),
    "numbers beyond all bounds": (GOOD % b',"epoch":-7,"step":99999999999999999999,"epochs":0', True),
    "a name of megabytes": (GOOD.replace(b'"name":"bad"', b'"name":"%s"' % (b"x" * 3_000_000)) % b"", True),
    "a name with escapes for terminals": (
        GOOD.replace(b'"name":"bad"', b'"name":"\\u001b[31m\\nred\\u0000"') % b"",
        True,
    ),
    "fields that are not known": (GOOD % b',"colour":"red"', True),
}


@pytest.mark.parametrize("name", list(RECORDS))
def test_a_damaged_record_hides_no_other(root: Path, name: str) -> None:
    """Listing works, in Python and in a shell; the damaged one is named with what is wrong, and can be deleted."""
    content, readable = RECORDS[name]
    store = Store(root)
    lock = store.create(Record(job_id="good", name="good", status=Status.COMPLETED, runner="thread"))
    lock.close()
    path = store.paths("bad").record
    if callable(content):
        content(path)
    else:
        path.write_bytes(content)
    found = tk.jobs()
    assert "good" in {job.id for job in found}
    assert ("bad" in {job.id for job in found}, "bad" in found.unreadable) == (readable, not readable)
    text = found.table(ids=True)
    assert "good" in text
    assert "bad" in text
    assert "\x1b" not in text
    assert tk.attach("good").state is Status.COMPLETED
    if not readable:
        with pytest.raises(TrainkitError) as caught:
            store.observe("bad")
        assert "bad" in str(caught.value)
        if name != "a folder":  # what is in it is not ours to remove
            store.delete("bad")
            assert store.job_ids() == ["good"]


def test_the_shapes_find_a_reader_that_trusts(root: Path) -> None:
    """The known-bad way, ``json.loads`` of every file, fails most of them."""
    failed = 0
    for content, _ in RECORDS.values():
        if not callable(content):
            try:
                json.loads(content)["status"]
            except Exception:  # noqa: BLE001 - whatever it raises, the listing would be gone
                failed += 1
    print(f"known-bad: {failed} of {len(RECORDS)} shapes end the listing")
    assert failed >= 10


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"[" * 200_000, b'{"runner":7}', bytes(100)])
def test_a_damaged_handle_is_told(root: Path, content: bytes) -> None:
    """Whether somebody runs the job cannot be known then: it is named, not guessed."""
    store = Store(root)
    lock = store.create(Record(job_id="a", name="a", status=Status.QUEUED, runner="process"))
    store.paths("a").handle.write_bytes(content)
    assert list(tk.jobs().unreadable) == ["a"]
    assert tk.jobs() == []
    lock.close()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flipped(at: float) -> Callable[[Path], None]:
    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[int(at * (len(data) - 1))] ^= 1
        path.write_bytes(data)

    return flip


def replaced(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def instead(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def put(path: Path) -> None:
        path.unlink()
        make(path)

    return put


CHECKPOINTS: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": replaced(b""),
    "zeros": replaced(bytes(5000)),
    "text": replaced(b"not a checkpoint"),
    "a pickle": replaced(b"cos\nsystem\n(S'touch /tmp/never'\ntR."),
    "cut": cut,
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"more"),
    **{f"one bit, at {at:g}": flipped(at) for at in (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)},
    "another job's": lambda path: torch.save({"step": 5}, path),
    "a folder": instead(Path.mkdir),
    "a pipe": instead(os.mkfifo),
    "a link to nowhere": instead(lambda path: path.symlink_to("nowhere")),
    "a link in a circle": instead(link_in_a_circle),
    "a device": instead(lambda path: path.symlink_to("/dev/zero")),
}


@pytest.mark.parametrize("name", list(CHECKPOINTS))
def test_beside_a_damaged_checkpoint_the_one_before_counts(root: Path, name: str) -> None:
    """What fails its check is not loaded; if both fail, the error names both; and new ones can be saved."""
    store = Store(root)
    store.create(Record(job_id="a", name="a", status=Status.QUEUED, runner="thread")).close()
    paths = store.paths("a")
    for step in (1, 2):
        save_resume(paths, {"step": step, "weights": torch.full((500,), float(step))}, step=step, epoch=1, now=1.0)
    damage = CHECKPOINTS[name]
    damage(paths.resume)
    content, info = load_resume(paths)
    assert (content["step"], info.step) == (1, 1)
    damage(paths.resume_previous)
    with pytest.raises(CheckpointError, match=r"resume\.pt.*resume\.previous\.pt"):
        load_resume(paths)
    if name != "a folder":
        save_resume(paths, {"step": 3}, step=3, epoch=1, now=1.0)
        assert load_resume(paths)[0] == {"step": 3}


def test_the_shapes_find_a_loader_that_trusts(tmp_path: Path) -> None:
    """The known-bad way, ``torch.load`` without a check, takes a flipped bit for a weight."""
    path = tmp_path / "resume.pt"
    accepted = 0
    for at in (0.25, 0.5, 0.75):
        torch.save({"weights": torch.zeros(2000)}, path)
        flipped(at)(path)
        accepted += bool(torch.load(path, weights_only=True)["weights"].abs().sum() != 0)
    print(f"known-bad: {accepted} of 3 flipped bits were trained on")
    assert accepted > 0


@pytest.mark.parametrize("content", [b"", b"{", b"{}", bytes(100), b"[" * 200_000])
def test_a_damaged_list_of_checkpoints_ends_no_training(root: Path, content: bytes) -> None:
    """What it told of is not counted on; the next checkpoint makes it whole."""
    store = Store(root)
    store.create(Record(job_id="a", name="a", status=Status.QUEUED, runner="thread")).close()
    paths = store.paths("a")
    save_resume(paths, {"step": 1}, step=1, epoch=1, now=1.0)
    (paths.folder / "resume.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"resume\.json"):
        load_resume(paths)
    save_resume(paths, {"step": 2}, step=2, epoch=1, now=1.0)
    assert load_resume(paths)[0] == {"step": 2}


def test_what_kills_have_left_is_in_nobodys_way(root: Path) -> None:
    """Temporary files and half-deleted folders: listing passes over them, deleting takes them along."""
    store = Store(root)
    store.create(Record(job_id="a", name="a", status=Status.COMPLETED, runner="thread")).close()
    jobs = store.paths("a").record.parent
    for name in (".a.json.0123.tmp", ".a.json.4567.tmp", ".other.json.89ab.tmp"):
        (jobs / name).write_bytes(b'{"job_id":')
    (store.paths("a").folder / ".resume.pt.0123.tmp").write_bytes(bytes(1000))
    (store.paths("a").model.parent / ".a.pt.0123.tmp").write_bytes(bytes(1000))
    (jobs / ".a.0123.tmp").mkdir()
    (jobs / ".a.0123.tmp" / "resume.pt").write_bytes(bytes(1000))
    assert [job.id for job in tk.jobs()] == ["a"]
    assert tk.jobs().unreadable == {}
    store.delete("a")
    assert [path.name for path in root.rglob("*") if path.is_file()] == [".other.json.89ab.tmp"]


def test_a_folder_that_a_kill_left_without_a_record_can_be_used(root: Path) -> None:
    """An id is not taken by what nobody can see, unless there is something in it."""
    store = Store(root)
    paths = store.paths("a")
    paths.folder.mkdir(parents=True)
    paths.owner_lock.touch()
    store.create(Record(job_id="a", name="a", status=Status.QUEUED, runner="thread")).close()
    assert store.job_ids() == ["a"]
    paths.record.unlink()
    paths.metrics.write_bytes(b'{"step":1}\n')
    with pytest.raises(FileExistsError):
        store.create(Record(job_id="a", name="a", status=Status.QUEUED, runner="thread"))
    paths.record.write_bytes(b"{")
    with pytest.raises(RecordError):
        store.read("a")
