"""What is promised of jobs on Ray where there is no Ray, or nobody answers."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

import trainkit as tk
from trainkit.errors import MissingExtraError, OptionError, RunnerError
from trainkit.files.owners import Process
from trainkit.files.record import Record, Resources, Status
from trainkit.files.store import Handle, Store
from trainkit.runners import ray as runner

from .learning import learns


@pytest.fixture(autouse=True)
def no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is known but what a test gives."""
    for name in (*runner.ADDRESS_VARIABLES, runner.TOKEN_VARIABLE):
        monkeypatch.delenv(name, raising=False)


def test_without_the_extra_a_sentence_tells_what_to_install(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is made."""
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    with pytest.raises(MissingExtraError, match=r"pip install 'jupyter-trainkit\[ray\]'"):
        tk.submit(learns, runner="ray", address="http://127.0.0.1:8265")
    assert list(root.iterdir()) == []


@pytest.mark.ray
def test_a_wrong_address_leaves_nothing_behind(root: Path) -> None:
    """An address where no cluster answers, or that is none, is an error before anything is made."""
    for address, error in [
        ("http://127.0.0.1:9", "no Ray cluster answers at http://127.0.0.1:9"),
        ("head:8265", "with http:// and its port"),
        (None, "needs address="),
    ]:
        with pytest.raises((RunnerError, OptionError), match=error):
            tk.submit(learns, runner="ray", address=address)
    assert list(root.iterdir()) == []


def queued(root: Path, **fields: object) -> tuple[Store, Record]:
    """The files of a job that was sent to a cluster."""
    store, now = Store(root), time.time()
    record = Record(
        job_id="sent",
        name="sent",
        status=Status.QUEUED,
        params={},
        runner="ray",
        resources=Resources(ranks=2),
        created_at=now,
        updated_at=now,
        heartbeat_at=now,
    )
    store.create(record).close()
    return store, record


def test_another_python_on_the_cluster_is_told(root: Path) -> None:
    """A function cannot travel between two versions: the job ends with a sentence, and nothing is run."""
    store, record = queued(root)
    store.write_handle(record.job_id, Handle(runner="ray"))
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    subprocess.run(
        [sys.executable, "-m", "trainkit.runners.rayjob", str(root), "sent", "3.7"], check=True, timeout=60
    )
    found = store.read("sent")
    assert found.status is Status.FAILED
    assert found.message.startswith(f"the notebook runs Python 3.7, the cluster {here}: ")


@pytest.mark.ray
def test_that_ray_did_not_start_the_ranks_is_told_with_where_to_look(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Ray said is in the log that Ray keeps of the job, and nowhere else."""
    store, record = queued(root)
    store.write_handle(record.job_id, Handle(runner="ray", detail={"submission_id": "sent-1"}))
    monkeypatch.setenv("RAY_ADDRESS", "no address")
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    words = [sys.executable, "-m", "trainkit.runners.rayjob", str(root), "sent", here]
    subprocess.run(words, check=True, timeout=100, capture_output=True)
    found = store.read("sent")
    assert (found.status, found.ended_by) == (Status.INTERRUPTED, "lost")
    assert "`ray job logs sent-1` tells what it said" in found.message


def test_a_folder_that_the_cluster_does_not_see_is_told(root: Path) -> None:
    """Ray's own log has the sentence, and the job's parent ends."""
    missing = root / "elsewhere"
    done = subprocess.run(
        [sys.executable, "-m", "trainkit.runners.rayjob", str(missing), "sent", "3.7"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "has to be on a file system that the notebook and all machines of the cluster share" in done.stderr


@pytest.fixture(params=["shut down", "silent"])
def nobody(request: pytest.FixtureRequest) -> Iterator[str]:
    """An address where a cluster was, or where one takes calls and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        if request.param == "shut down":
            server.close()
        yield address


@pytest.mark.ray
def test_a_cluster_that_gives_no_answer_is_unknown_and_never_lost(
    root: Path, nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is called dead who cannot be asked; who wants to kill is told; and lists go on."""
    monkeypatch.setattr(runner, "LOOK_S", 0.5)
    monkeypatch.setattr(runner, "ANSWER_S", 0.5)
    monkeypatch.setattr(runner, "FRESH_S", 0.0)
    store, record = queued(root)
    record.status, record.pid, record.host, record.boot_id = Status.RUNNING, 1, "another host", "another boot"
    record.process_started_at = 1.0
    store.write_record(record, durable=False)
    for number in range(3):
        detail = runner.Place(nobody, f"sent-{number}-out-of-reach").detail("sent")
        away = [Process(1, 1.0, "another boot", "another host")]
        store.write_handle("sent", Handle(runner="ray", processes=away, detail=detail))
        assert runner.poll(store, record) is None
        assert tk.attach("sent").state is Status.RUNNING
    assert [job.id for job in tk.jobs("running")] == ["sent"]
    with pytest.raises(RunnerError, match="cannot be asked to kill it"):
        runner.kill(store, record)
    assert msgspec.json.decode(store.paths("sent").record.read_bytes())["status"] == "RUNNING"
    record.status, record.finished_at = Status.STOPPED, time.time()  # it never was; nobody has to end it
    store.write_record(record, durable=False)
