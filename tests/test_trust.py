"""What is loaded and contacted of a job's folder: only what this user's own jobs have written there."""

from __future__ import annotations

import os
import pickle
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import trainkit as tk
from trainkit.api import attempts
from trainkit.cli.commands import cli
from trainkit.errors import (
    CheckpointError,
    JobFailedError,
    OptionError,
    RunnerError,
    StateError,
    StoreError,
    TrainkitError,
    TrustError,
)
from trainkit.files import trust
from trainkit.files.locks import FileLock
from trainkit.files.record import ErrorInfo, Record, Resources, Status
from trainkit.files.store import Handle, Store
from trainkit.runners import ray, spawned
from trainkit.runners.main_module import TASK_VARIABLE
from trainkit.runners.slots import Ticket
from trainkit.runners.task import Task, adopt_task, checked_task, dump_outcome, load_outcome, read_task, write_task
from trainkit.server import commands
from trainkit.server.messages import JobRequest, ReplayRequest
from trainkit.server.problems import refused
from trainkit.server.roots import Roots
from trainkit.server.site import Site


class Planted:
    """Writes a file when it is unpickled."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({str(self.flag)!r}, 'w').close()",)


@pytest.fixture
def another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Make this process one of another user, with a key of its own."""
    return lambda: monkeypatch.setenv(trust.STATE_VARIABLE, str(tmp_path / "state of another user"))


def ended(status: Status, *, runner: str = "process", **fields: Any) -> Store:
    """The files of a job that has ended."""
    store, now = Store(), time.time()
    times = dict.fromkeys(("created_at", "updated_at", "heartbeat_at", "finished_at"), now)
    record = Record(job_id="x", name="x", status=status, runner=runner, **times, **fields)
    store.create(record).close()
    return store


# --- the key -------------------------------------------------------------------------------------


def test_the_key_is_private_and_the_same_in_every_process(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The umask makes no difference."""
    monkeypatch.setenv(trust.STATE_VARIABLE, str(tmp_path / "state"))
    before = os.umask(0)
    try:
        key = trust.job_key("x")
    finally:
        os.umask(before)
    folder = tmp_path / "state" / "trainkit"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "key").stat().st_mode) == 0o600
    assert [each.name for each in folder.iterdir()] == ["key"]
    trust._keys.clear()
    assert trust.job_key("x") == key
    assert trust.job_key("y") != key


@pytest.mark.parametrize("what", ["another's link", "open to others", "cut short", "a folder"])
def test_a_key_that_others_may_know_is_not_used(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The next place is the folder of temporary files."""
    monkeypatch.setenv(trust.STATE_VARIABLE, str(tmp_path / "state"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = tmp_path / "state" / "trainkit"
    folder.mkdir(parents=True, mode=0o700)
    known = tmp_path / "known"
    known.write_bytes(b"k" * 32)
    known.chmod(0o600)
    if what == "another's link":
        (folder / "key").symlink_to(known)
    elif what == "a folder":
        (folder / "key").mkdir()
    else:
        (folder / "key").write_bytes(b"k" * (31 if what == "cut short" else 32))
        (folder / "key").chmod(0o644 if what == "open to others" else 0o600)
    found = trust.job_key("x")
    assert (tmp_path / f"trainkit-{os.getuid()}-key" / "key").exists()
    assert found != trust._keyed(trust._keyed(b"k" * 32, "job", "x").encode())


def test_where_no_place_is_private_an_error_says_what_to_set(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is trusted without a key."""
    blocked = tmp_path / "a file"
    blocked.touch()
    monkeypatch.setenv(trust.STATE_VARIABLE, str(blocked))
    monkeypatch.setattr("tempfile.tempdir", str(blocked))
    with pytest.raises(StoreError, match="set XDG_STATE_HOME to a folder of your own"):
        trust.job_key("x")


def test_a_job_uses_the_key_that_was_passed_to_it(
    root: Path, monkeypatch: pytest.MonkeyPatch, another_user: Callable[[], None]
) -> None:
    """On another machine the user's own key is not there; for other jobs, that of the machine counts."""
    key, other = trust.job_key("x"), trust.job_key("y")
    another_user()
    monkeypatch.setenv(trust.JOB_KEY_VARIABLE, f"x:{key}")
    assert trust.job_key("x") == key
    assert trust.job_key("y") != other


# --- pickles -------------------------------------------------------------------------------------


def test_what_a_job_of_this_user_has_written_is_loaded(root: Path) -> None:
    """And nobody else may read it."""
    paths = ended(Status.COMPLETED).paths("x")
    write_task(paths, Task(len, {"a": 1}))
    paths.result.write_bytes(dump_outcome(7, None, returned=True, key=trust.job_key("x")))
    assert read_task(paths, own_process=False) == Task(len, {"a": 1})
    assert tk.attach("x").result() == 7
    assert stat.S_IMODE(paths.task.stat().st_mode) == 0o600


@pytest.mark.parametrize("seal", ["none", "of another user", "of another job", "of another kind"])
def test_a_pickle_of_somebody_else_is_not_loaded(
    root: Path, tmp_path: Path, another_user: Callable[[], None], seal: str
) -> None:
    """Neither by a look nor by a resume, replay or branch; `trust=True` says that it may be."""
    store, flag = ended(Status.COMPLETED), tmp_path / "flag"
    paths = store.paths("x")
    job_id = "y" if seal == "of another job" else "x"
    for path, kind in ((paths.task, "task"), (paths.result, "result")):
        data = pickle.dumps({"sys_path": [], "folder": "", "sources": {}}) if kind == "task" else b""
        data += pickle.dumps(Planted(flag))
        if seal == "of another kind":
            kind = "task" if kind == "result" else "result"
        path.write_bytes(data if seal == "none" else data + trust.seal(data, trust.job_key(job_id), kind))
    if seal == "of another user":
        another_user()
    job = tk.attach("x")
    with pytest.raises(
        TrustError, match=r"result.pkl .* not written by a job of yours.*job\.result\(trust=True\)"
    ):
        job.result()
    assert job.exception() is None
    with pytest.raises(TrustError, match=r"task.pkl .*job\.replay\(trust=True\)"):
        job.replay()
    with pytest.raises(TrustError):
        read_task(paths)
    assert not flag.exists()
    with pytest.raises(StateError):  # what is planted returns nothing
        job.result(trust=True)
    assert flag.exists()


def test_a_failed_job_of_another_user_reports_its_error_from_the_record(
    root: Path, another_user: Callable[[], None]
) -> None:
    """Type, message and traceback; the exception itself for the user who ran the job."""
    told = ErrorInfo("KeyError", "'lost'", "Traceback: line 3")
    paths = ended(Status.FAILED, error=told).paths("x")
    error = KeyError("lost")
    paths.result.write_bytes(dump_outcome(None, error, returned=False, key=trust.job_key("x")))
    assert isinstance(tk.attach("x").exception(), KeyError)
    another_user()
    job = tk.attach("x")
    found = job.exception()
    assert isinstance(found, JobFailedError)
    assert all(part in str(found) for part in ("KeyError", "'lost'", "Traceback: line 3"))
    with pytest.raises(JobFailedError):
        job.result()
    with pytest.raises(KeyError):
        job.result(trust=True)


@pytest.mark.parametrize("at", [0, 10, -150])
def test_a_damaged_pickle_is_reported_as_damaged(root: Path, at: int) -> None:
    """Not as one of somebody else; `trust=True` changes nothing."""
    paths = ended(Status.COMPLETED).paths("x")
    write_task(paths, Task(len, {"a": "x" * 200}))
    data = bytearray(paths.task.read_bytes())
    data[at] ^= 1
    paths.task.write_bytes(bytes(data))
    for accept in (False, True):
        with pytest.raises(StoreError, match="task.pkl of job 'x' is damaged"):
            checked_task(paths, trust=accept)
    paths.result.write_bytes(dump_outcome("x" * 200, None, returned=True, key=trust.job_key("x")))
    data = bytearray(paths.result.read_bytes())
    data[at] ^= 1
    paths.result.write_bytes(bytes(data))
    with pytest.raises(StoreError, match="result.pkl of job 'x' is damaged"):
        load_outcome(paths, trust=True)


def test_a_job_of_another_user_is_resumed_once_it_is_trusted(root: Path, another_user: Callable[[], None]) -> None:
    """The panel's button and the server do not trust it; from then on it is one's own."""
    job = tk.submit(lambda run: 5, runner="process")
    assert job.result(60) == 5
    another_user()
    with pytest.raises(TrustError):
        job.replay(runner="process")
    assert len(tk.jobs()) == 1, "nothing half-made"
    again = job.replay(runner="process", trust=True)
    assert again.result(60) == 5
    assert again.replay(runner="thread").result(60) == 5


def test_a_task_that_was_replaced_is_not_loaded_by_a_spawned_process(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, another_user: Callable[[], None]
) -> None:
    """DataLoader workers, for example, look in the task for what pickle names."""
    flag = tmp_path / "flag"
    paths = ended(Status.COMPLETED).paths("x")
    write_task(paths, Task(len, {"a": Planted(flag)}))
    monkeypatch.setenv(TASK_VARIABLE, str(paths.task))
    spawned._task.cache_clear()
    another_user()
    with pytest.raises(TrustError):
        spawned.__getattr__("Net")
    assert not flag.exists()


def test_adopting_changes_the_seal_and_nothing_else(root: Path, another_user: Callable[[], None]) -> None:
    """However often it is done."""
    paths = ended(Status.COMPLETED).paths("x")
    write_task(paths, Task(len, {"a": 1}))
    size = paths.task.stat().st_size
    another_user()
    for _ in range(2):
        adopt_task(checked_task(paths, trust=True), paths)
        assert paths.task.stat().st_size == size
        assert read_task(paths, own_process=False) == Task(len, {"a": 1})


# --- addresses of clusters -----------------------------------------------------------------------

HEAD = "http://head.example:8265"


@pytest.fixture
def contacted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that are contacted; each answers that the job runs."""
    for name in (*ray.ADDRESS_VARIABLES, ray.TOKEN_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    found: list[str] = []

    def answer(place: ray.Place) -> bool:
        found.append(place.address)
        return True

    monkeypatch.setattr(ray, "_answer", answer)
    monkeypatch.setattr(ray, "_given", {})
    return found


def on_a_cluster(detail: dict[str, Any]) -> Store:
    """The files of a job that says that it runs on a cluster."""
    store, now = Store(), time.time()
    times = dict.fromkeys(("created_at", "updated_at", "heartbeat_at"), now)
    resources = Resources(address=detail["address"] if isinstance(detail["address"], str) else None)
    record = Record(job_id="x", name="x", status=Status.RUNNING, runner="ray", resources=resources, **times)
    store.create(record).close()
    store.write_handle("x", Handle(runner="ray", detail=detail))
    return store


PLANTED = [HEAD, "ray://head", "evil_module://x", "evil_module", "file:///etc/passwd", "local", "", 5, None]


@pytest.mark.parametrize("address", PLANTED)
def test_looking_contacts_no_address_that_only_a_file_names(
    root: Path, contacted: list[str], monkeypatch: pytest.MonkeyPatch, address: Any
) -> None:
    """It is unreachable, with what to do; nothing is imported."""
    monkeypatch.chdir(root)
    monkeypatch.syspath_prepend("")
    Path("evil_module.py").write_text("")
    on_a_cluster({"address": address, "submission_id": "x-1-00000000"})
    job = tk.jobs()[0]
    assert job.state is Status.RUNNING
    assert job.record.message.startswith("unreachable: its files name the Ray cluster ")
    assert "UNREACHABLE" in repr(tk.jobs())
    assert "tk.attach('x', address=" in job.record.message
    with pytest.raises(RunnerError, match="not an address that you named"):
        job.kill()
    assert contacted == []
    assert "evil_module" not in sys.modules


def test_an_address_is_contacted_that_this_user_sent_the_job_to(root: Path, contacted: list[str]) -> None:
    """From any process of the user; not when anything of it was changed."""
    place = ray.Place(HEAD, "x-1-00000000")
    store = on_a_cluster(place.detail("x"))
    assert tk.attach("x").state is Status.RUNNING
    assert contacted == [HEAD]
    for change in ({"address": "http://evil:1"}, {"submission_id": "x-1-11111111"}, {"local": True}, {"mark": ""}):
        store.write_handle("x", Handle(runner="ray", detail={**place.detail("x"), **change}))
        assert tk.attach("x").record.message.startswith("unreachable")
    assert contacted == [HEAD]


def test_an_address_is_contacted_that_the_environment_or_attach_names(
    root: Path, contacted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one in the environment says nothing of this job's."""
    on_a_cluster({"address": HEAD, "submission_id": "x-1-00000000"})
    monkeypatch.setenv("RAY_ADDRESS", "http://another:8265")
    assert tk.attach("x").record.message.startswith("unreachable")
    monkeypatch.setenv("RAY_ADDRESS", HEAD + "/")
    assert tk.attach("x").record.message == ""
    monkeypatch.delenv("RAY_ADDRESS")
    assert tk.attach("x").record.message.startswith("unreachable")
    assert tk.attach("x", address="http://tunnel:1").record.message == ""
    assert contacted == [HEAD, "http://tunnel:1"]


@pytest.mark.parametrize("submission_id", ["y-1-00000000", "x-1/../y", "", 3])
def test_a_job_is_not_asked_for_under_the_name_of_another(
    root: Path, contacted: list[str], submission_id: Any
) -> None:
    """To kill it would end the other one."""
    on_a_cluster({"address": HEAD, "submission_id": submission_id})
    tk.attach("x", address=HEAD)
    assert tk.attach("x").done() in (True, False)
    assert contacted == []


@pytest.mark.parametrize("address", ["ray://head:1", "head:8265", "", "local"])
def test_attach_takes_the_address_of_a_dashboard_only(root: Path, contacted: list[str], address: str) -> None:
    """Ray takes what is before :// for a module to import."""
    on_a_cluster({"address": HEAD, "submission_id": "x-1-00000000"})
    with pytest.raises(OptionError, match="expected that of a dashboard"):
        tk.attach("x", address=address)


def test_attach_refuses_an_address_for_a_job_of_this_machine(root: Path) -> None:
    """It would have no effect."""
    ended(Status.COMPLETED)
    with pytest.raises(OptionError, match="does not run on a Ray cluster"):
        tk.attach("x", address=HEAD)


def test_a_job_goes_on_at_an_address_that_this_user_named(
    root: Path, contacted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planted one is not contacted by a resume either; with `address=`, or in a process, the job goes on."""
    asked: list[str] = []
    monkeypatch.setattr(ray, "check", lambda record: asked.append(ray.address_of(record)))
    store = on_a_cluster({"address": HEAD, "submission_id": "x-1-00000000"})
    record = store.read("x")
    record.status, record.finished_at, record.resumable = Status.STOPPED, time.time(), True
    store.write_record(record, durable=False)
    job = tk.attach("x")
    for again in (job.resume, job.replay):
        with pytest.raises(TrustError, match="not an address that you named"):
            again()
    assert asked == []
    for more in ({"address": "http://given:1"}, {"runner": "process"}):
        with pytest.raises(CheckpointError):  # there is no task: everything before that has passed
            job.replay(**more)
    store.write_handle("x", Handle(runner="ray", detail=ray.Place(HEAD, "x-1-00000000").detail("x")))
    with pytest.raises(CheckpointError):
        job.resume()
    assert asked == [HEAD]


# --- jobs on a cluster, run again from everywhere ------------------------------------------------


@pytest.fixture
def cluster(root: Path, contacted: list[str], monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """A cluster that takes jobs and ends them at once: the id and the address of each."""
    taken: list[tuple[str, str]] = []

    def submit(
        store: Store, record: Record, task: Task | None, lock: FileLock, ticket: Ticket, handle: Handle
    ) -> None:
        address = ray.address_of(record)
        taken.append((record.job_id, address))
        if task is not None:
            write_task(store.paths(record.job_id), task)
        handle.detail = ray.Place(address, f"{record.job_id}-{record.attempt}-0").detail(record.job_id)
        store.write_handle(record.job_id, handle)
        record.resources, record.resumable = Resources(address=address), True
        record.status, record.finished_at = Status.STOPPED, time.time()
        store.write_record(record, durable=False)
        ticket.close()
        lock.close()

    monkeypatch.setattr(ray, "check", ray.address_of)
    monkeypatch.setattr(ray, "submit", submit)
    monkeypatch.setattr(attempts, "whole_resume", lambda paths: None)  # as if it had a checkpoint
    return taken


def by_shell(verb: str) -> str:
    """Run a command; return the error."""
    words = [verb, "x", *(["--detach"] if verb != "resume" else [])]
    result = CliRunner().invoke(cli, words)
    return result.stderr if result.exit_code else ""


def by_http(verb: str) -> str:
    """Call what is behind a route; return the error."""
    folder = Store().root
    site = Site(Roots(folder, folder))
    request = (JobRequest if verb == "resume" else ReplayRequest)(job_id="x")
    try:
        getattr(commands, verb)(site, request)
    except TrainkitError as error:
        problem = refused(error, in_body=True)
        return f"{problem.status if problem else None} {error}"
    return ""


def by_panel(verb: str) -> str:
    """Do what the button does; there is one for a resume only."""
    try:
        getattr(tk.attach("x"), verb)()
    except TrainkitError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("verb", ["resume", "replay"])
@pytest.mark.parametrize("by", [by_shell, by_http, by_panel])
def test_a_job_on_a_cluster_is_run_again_there_and_one_of_somebody_else_is_not(
    cluster: list[tuple[str, str]],
    another_user: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    by: Callable[[str], str],
    verb: str,
) -> None:
    """The address comes from the record, also if it came from the environment of who submitted the job."""
    monkeypatch.setenv("RAY_ADDRESS", HEAD)
    job = tk.submit(lambda run: 5, runner="ray", job_id="x")
    monkeypatch.delenv("RAY_ADDRESS")
    assert job.state is Status.STOPPED
    assert by(verb) == ""
    assert len(cluster) == 2
    assert cluster[-1][1] == HEAD
    assert (cluster[-1][0] == "x") is (verb == "resume")
    another_user()
    refusal = by(verb)
    assert "not an address that you named" in refusal
    assert by is not by_http or refusal.startswith("403 ")
    monkeypatch.setenv("RAY_ADDRESS", HEAD)
    assert "not written by a job of yours" in by(verb)
    assert len(cluster) == 2


def test_the_shell_takes_another_address_and_trusts_when_it_is_told_so(
    cluster: list[tuple[str, str]], another_user: Callable[[], None]
) -> None:
    """As `address=` and `trust=True` do."""
    tk.submit(lambda run: 5, runner="ray", job_id="x", address=HEAD)
    another_user()
    for verb in ("resume", "replay"):
        words = [verb, "x", "--address", "http://other:1", "--trust", *(["--detach"] if verb != "resume" else [])]
        assert CliRunner().invoke(cli, words).exit_code == 0
        assert cluster[-1][1] == "http://other:1"
    assert by_shell("replay") == "", "from now on the job is this user's own"
