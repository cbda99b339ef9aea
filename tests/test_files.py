"""Paths, locks, streams and the store."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainkit.errors import JobExistsError, JobIdError, RecordError, TrainkitError, UnknownJobError
from trainkit.files import owners, whole
from trainkit.files.locks import is_locked, locked, try_lock
from trainkit.files.paths import JOB_ID_PATTERN, JobPaths, check_job_id, make_job_id
from trainkit.files.record import Record, Status, encode
from trainkit.files.store import Handle, Store
from trainkit.files.streams import Appender, tail, write_all

BAD_IDS = [
    "",
    ".",
    "..",
    "../a",
    "a/b",
    "a\\b",
    "a.b",
    "-a",
    "_a",
    "a\n",
    "a\0",
    "ä",
    "a" * 129,
    "a b",
    None,
    7,
    b"a",
]


@pytest.mark.parametrize("job_id", BAD_IDS)
def test_bad_job_ids_are_refused_before_they_touch_a_path(job_id: object) -> None:
    """Nothing but letters, digits, _ and - becomes part of a path."""
    with pytest.raises(JobIdError, match="is not a job id"):
        JobPaths(Path("root"), job_id)  # type: ignore[arg-type]


@given(st.from_regex(JOB_ID_PATTERN, fullmatch=True))
def test_good_job_ids_stay_below_the_root(job_id: str) -> None:
    """Whatever id is accepted, all of its files are below the root."""
    paths = JobPaths(Path("/root"), check_job_id(job_id))
    for path in (paths.record, paths.folder, paths.model, paths.metrics, paths.resume, paths.owner_lock):
        assert Path(os.path.normpath(path)) == path
        assert path.is_relative_to("/root")


def test_made_job_ids_are_job_ids() -> None:
    """Milliseconds, then eight random hex digits."""
    assert check_job_id(make_job_id(1760323520.751, 0x1FF9DD5BF)) == "job_1760323520751_ff9dd5bf"


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    """A second try fails while the first holds; closing frees it; asking takes nothing."""
    path = tmp_path / "lock"
    assert is_locked(path) is None
    first = try_lock(path)
    assert first is not None
    assert is_locked(path) is True
    assert try_lock(path) is None
    first.close()
    assert is_locked(path) is False
    second = try_lock(path)
    assert second is not None
    second.close()


def test_asking_never_keeps_an_owner_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that asks at just this moment makes try_lock wait a little, not fail."""
    path = tmp_path / "lock"
    path.touch()
    asks = os.open(path, os.O_RDONLY)
    fcntl.flock(asks, fcntl.LOCK_SH)
    monkeypatch.setattr("trainkit.files.locks.time.sleep", lambda seconds: fcntl.flock(asks, fcntl.LOCK_UN))
    lock = try_lock(path)
    assert lock is not None
    lock.close()
    os.close(asks)


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    """The lock is free when its owner closes it, though a forked child (a DataLoader worker) lives on."""
    script = """
        import os, sys
        from pathlib import Path
        from trainkit.files.locks import try_lock, is_locked
        path = Path(sys.argv[1])
        lock = try_lock(path)
        receive, send = os.pipe()
        ready, tell = os.pipe()
        if (pid := os.fork()) == 0:
            os.close(send)
            os.write(tell, b".")  # here the hooks of the fork have run
            os.read(receive, 1)   # lives until the parent has looked
            os._exit(0)
        os.read(ready, 1)
        lock.close()
        print(is_locked(path))
        os.close(send)
        os.waitpid(pid, 0)
    """
    code = "\n".join(line[8:] for line in script.splitlines())
    out = subprocess.run([sys.executable, "-c", code, str(tmp_path / "lock")], capture_output=True, text=True)
    assert out.stdout == "False\n", out.stderr


def test_a_lock_that_nobody_gives_back_is_an_error(tmp_path: Path) -> None:
    """A critical section waits for its turn, but not for ever."""
    path = tmp_path / "lock"
    holder = try_lock(path)
    assert holder is not None
    times = iter(range(100))
    with (
        pytest.raises(TrainkitError, match="more than 5 s"),
        locked(path, timeout_s=5, clock=lambda: float(next(times)), pause=lambda s: None),
    ):
        pytest.fail("entered a section that somebody else holds")
    holder.close()


def test_a_process_is_known_by_more_than_its_pid() -> None:
    """Another start time or boot is another process; another host cannot be asked."""
    me = owners.this_process()
    assert owners.is_running(me) is True
    assert owners.is_running(owners.Process(me.pid, me.started_at - 60, me.boot_id, me.host)) is False
    assert owners.is_running(owners.Process(me.pid, me.started_at, "other-boot", me.host)) is False
    assert owners.is_running(owners.Process(me.pid, me.started_at, "other-boot", "elsewhere")) is None
    assert owners.is_running(owners.Process(me.pid, me.started_at, me.boot_id, "a-container")) is None
    with subprocess.Popen([sys.executable, "-c", "pass"]) as child:
        child_identity = owners.process(child.pid)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and a zombie until it is waited for
        assert owners.is_running(child_identity) is False


# --- streams -------------------------------------------------------------------------------------


def test_a_torn_last_line_is_left_and_a_torn_middle_line_is_passed_over(tmp_path: Path) -> None:
    """A reader that tails sees each whole line once, whatever a kill has left."""
    path = tmp_path / "s.jsonl"
    path.write_bytes(b'{"n":1}\n{"n":')
    assert tail(path) == ([{"n": 1}], 8)
    with_heal = Appender(path)
    with_heal.append([{"n": 2}])
    with_heal.close()
    assert tail(path, 8)[0] == [{"n": 2}]
    assert tail(tmp_path / "missing") == ([], 0)


@given(cuts=st.lists(st.integers(0, 400), max_size=8).map(sorted))
def test_tailing_in_any_pieces_reads_the_same(tmp_path_factory: pytest.TempPathFactory, cuts: list[int]) -> None:
    """Reading while a stream grows byte by byte gives each line exactly once."""
    path = tmp_path_factory.mktemp("stream") / "s.jsonl"
    data = b"".join(b'{"n":%d,"loss":"NaN"}\n' % n for n in range(20))
    seen: list[int] = []
    offset = 0
    for end in [*cuts, len(data)]:
        path.write_bytes(data[:end])
        lines, offset = tail(path, offset)
        seen += [line["n"] for line in lines]
    assert seen == list(range(20))


@pytest.mark.parametrize("limit_bytes", [1, 7, 22, 23, 60, 10_000])
def test_tailing_in_bounded_pieces_reads_the_same(tmp_path: Path, limit_bytes: int) -> None:
    """However little is read at once, each line comes once and a torn last line not at all."""
    path = tmp_path / "s.jsonl"
    path.write_bytes(b"".join(b'{"n":%d,"loss":"NaN"}\n' % n for n in range(20)) + b'{"n":20')
    seen: list[int] = []
    offset, before = 0, -1
    while offset != before:
        before = offset
        lines, offset = tail(path, offset, limit_bytes=limit_bytes)
        assert len(lines) <= 1 + limit_bytes // 20
        seen += [line["n"] for line in lines]
    assert seen == list(range(20))


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that takes only a part of the data is gone on with."""
    path = tmp_path / "f"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:3]))
    write_all(fd, b"0123456789")
    monkeypatch.undo()
    os.close(fd)
    assert path.read_bytes() == b"0123456789"


# --- the store -----------------------------------------------------------------------------------


def queued(job_id: str) -> Record:
    """A record as submission makes it."""
    return Record(job_id=job_id, name=job_id, status=Status.QUEUED, runner="thread")


def test_a_failed_write_leaves_the_old_record(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk the record stays whole, and no temporary file is left."""
    files = Store()
    files.create(queued("a")).close()
    before = files.paths("a").record.read_bytes()

    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(whole, "write_all", full)
    with pytest.raises(OSError, match="No space"):
        files.write_record(queued("a"), durable=True)
    monkeypatch.undo()
    assert files.paths("a").record.read_bytes() == before
    assert [path.name for path in files.paths("a").record.parent.iterdir() if path.suffix == ".tmp"] == []


def test_an_id_is_taken_once(root: Path) -> None:
    """The second job of an id is refused and changes nothing of the first."""
    files = Store()
    lock = files.create(queued("a"))
    before = files.paths("a").record.read_bytes()
    with pytest.raises(JobExistsError, match="already"):
        files.create(queued("a"))
    assert files.paths("a").record.read_bytes() == before
    lock.close()


def test_nobody_there_reads_interrupted_and_writes_nothing(root: Path) -> None:
    """QUEUED and RUNNING are shown only while somebody holds the job; a reader never writes."""
    files = Store()
    lock = files.create(queued("a"))
    assert files.observe("a").status is Status.QUEUED
    lock.close()
    before = files.paths("a").record.read_bytes()
    seen = files.observe("a")
    assert (seen.status, seen.ended_by) == (Status.INTERRUPTED, "lost")
    assert files.paths("a").record.read_bytes() == before


def test_an_owner_that_ends_between_two_looks_is_believed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record is read again once the lock was found free: an end that was just written counts."""
    files = Store()
    files.create(queued("a")).close()
    asked = []

    def ends_just_then(record: Record) -> bool:
        asked.append(record.status)
        files.write_record(Record(job_id="a", name="a", status=Status.COMPLETED, runner="thread"), durable=False)
        return False

    monkeypatch.setattr(files, "is_owned", ends_just_then)
    assert files.observe("a").status is Status.COMPLETED
    assert asked == [Status.QUEUED]


def test_a_record_of_another_host_is_never_called_dead(root: Path) -> None:
    """What cannot be known from here is shown as the record tells it, with how long it has been silent."""
    now = [0.0]
    files = Store(pulse=owners.Pulse(clock=lambda: now[0]))
    files.create(queued("a")).close()
    record = Record(job_id="a", name="a", status=Status.RUNNING, runner="process", pid=1, process_started_at=1.0)
    record.boot_id, record.host = "other", "elsewhere"
    files.write_record(record, durable=False)
    assert (files.observe("a").status, files.observe("a").message) == (Status.RUNNING, "")
    now[0] = 45.0
    seen = files.observe("a")
    assert (seen.status, seen.message) == (
        Status.RUNNING,
        "no sign of life for 45 s; its host, elsewhere, cannot be asked from here. "
        "If that is gone, job.resume(lost=True) goes on from the last checkpoint",
    )


def test_a_lock_kept_by_a_stray_child_does_not_keep_a_job_alive(root: Path) -> None:
    """Locked, but every process that is known to run the job is gone: it is dead."""
    files = Store()
    lock = files.create(queued("a"))
    with subprocess.Popen([sys.executable, "-c", "pass"]) as child:
        gone = owners.process(child.pid)
    files.write_handle("a", Handle(runner="process", processes=[gone]))
    assert files.observe("a").status is Status.INTERRUPTED
    lock.close()


def test_the_lock_is_believed_where_pids_cannot_be(root: Path) -> None:
    """Set clocks and containers on one machine make pids useless; the lock they share tells who lives."""
    files = Store()
    lock = files.create(queued("a"))
    me = owners.this_process()
    for there in (
        owners.Process(me.pid, me.started_at + 100, me.boot_id, me.host),  # the clock was set
        owners.Process(1, 1.0, me.boot_id, "a-container"),
    ):
        files.write_handle("a", Handle(runner="process", processes=[there]))
        assert files.observe("a").status is Status.QUEUED
    lock.close()
    assert files.observe("a").status is Status.INTERRUPTED


def test_the_older_shape_has_no_owner(root: Path) -> None:
    """An old record that claims to run reads INTERRUPTED; an ended one as it ended."""
    files = Store()
    folder = files.paths("old").record.parent
    folder.mkdir(parents=True)
    files.paths("old").record.write_text('{"job_id": "old", "status": "LOADING", "pid": 1}')
    assert files.observe("old").status is Status.INTERRUPTED
    files.paths("old").record.write_text('{"job_id": "old", "status": "STOPPED", "pid": 1}')
    assert files.observe("old").status is Status.STOPPED


def test_unknown_and_foreign_records(root: Path) -> None:
    """An unknown job is named with its nearest; a record under another job's name is not believed."""
    files = Store()
    files.create(queued("penguins")).close()
    with pytest.raises(UnknownJobError, match="did you mean 'penguins'"):
        files.read("pengiuns")
    files.paths("b").record.write_bytes(encode(queued("penguins")))
    with pytest.raises(RecordError, match="of job 'penguins'"):
        files.read("b")


def test_requests_are_whole_lines_after_a_torn_one(root: Path) -> None:
    """A request appended behind a torn line is still read."""
    files = Store()
    files.create(queued("a")).close()
    files.paths("a").requests.write_bytes(b'{"action": "st')
    files.request("a", "stop")
    assert files.requests("a", 0)[0] == [{"action": "stop"}]
