"""What a Ray cluster adds to the contract of every runner: nodes, room, a token; over two nodes on loopback."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import msgspec
import psutil
import pytest

import trainkit as tk
from trainkit.errors import JobInterruptedError, JobStoppedError, RunnerError
from trainkit.files.owners import Process
from trainkit.files.record import Status
from trainkit.runners import ray as runner

from ..notebooks.running import copied, run_and_compare
from .learning import furthest, learns
from .nodes import Nodes
from .places import RAY, RAY_RANKS
from .test_process import is_alive

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
Eventually = Callable[..., None]


def test_two_ranks_on_two_nodes_reach_the_weights_of_one_and_listen_on_loopback_only(
    cluster: Nodes, eventually: Eventually
) -> None:
    """One set of files, one line a step; the panel's fields; what one rank computes with the combined batch.

    All of it in the cluster that was asked, though there is another one on this machine.
    """
    one = tk.submit(learns, runner="process", batch_size=32, epochs=4)
    with cluster.among_others():
        two = RAY_RANKS.submit(learns, batch_size=16, epochs=4, pause_s=0.15)
        RAY_RANKS.started(two, eventually)
    assert cluster.listening() == {"127.0.0.1"}
    assert two.wait(300) is Status.COMPLETED
    assert one.wait(60) is Status.COMPLETED
    apart = furthest(one.model(), two.model())
    print(f"two ranks on two nodes from one with the combined batch: {apart:.1e} apart")
    assert apart < 1e-5
    record = two.record
    assert (record.step, record.total_steps, record.runner, record.resources.ranks) == (32, 32, "ray", 2)
    assert [each.rank for each in record.ranks] == [0, 1]
    assert len({each.node for each in record.ranks}) == 2, "two nodes of one CPU each"
    assert all(each.steps_per_s for each in record.ranks)
    assert two.logs() == "training begins\n"
    assert two.metrics().index.tolist() == list(range(1, 33))
    assert sorted(two.result().state_dict()) == sorted(two.model())


@pytest.mark.long
def test_a_lost_node_begins_again_from_the_checkpoint_and_a_stop_saves(
    cluster: Nodes, eventually: Eventually
) -> None:
    """The group starts again from its checkpoint, up to retries; the record tells; a stop then ends it."""
    job = RAY_RANKS.submit(learns, epochs=10_000, pause_s=0.05, retries=2)
    RAY_RANKS.started(job, eventually, step=12)
    saved = job.record.checkpoint
    assert saved is not None
    cluster.lose_one()
    eventually(lambda: job.record.restarts == 1, within_s=300)
    told = next(event["message"] for event in job.events() if event["event"] == "restart")
    assert told.startswith("restart 1 of 2, from its checkpoint: ")
    eventually(lambda: job.state is Status.RUNNING, within_s=300)
    RAY_RANKS.started(job, eventually, step=job.record.step + 5)
    assert job.stop() in (Status.STOPPING, Status.STOPPED)
    assert job.wait(60) is Status.STOPPED
    assert job.record.checkpoint is not None
    assert job.record.checkpoint.step == job.record.step, "a stop saves"
    with pytest.raises(JobStoppedError):
        job.result()
    assert job.metrics().index.is_unique


@pytest.mark.long
def test_a_killed_job_leaves_nothing_on_the_cluster(cluster: Nodes, eventually: Eventually) -> None:
    """Its ranks, its parent and Ray Train's notes go; the cluster stays."""
    job = RAY_RANKS.started(RAY_RANKS.submit(learns, epochs=10_000, pause_s=0.05), eventually)
    eventually(lambda: len(job.record.ranks) == 2, within_s=60)
    handle = job.store.handle(job.id)
    assert handle is not None
    pids = {*(each.pid for each in job.record.ranks), *(each.pid for each in handle.processes)}
    assert len(pids) == 4, "two ranks, the parent, and what starts Ray Train"
    assert job.kill() is Status.STOPPED
    eventually(lambda: not any(psutil.pid_exists(pid) for pid in pids), within_s=120)
    assert (job.state, job.record.message) == (Status.STOPPED, "killed on request")
    eventually(lambda: not (job.paths.folder / "ray").exists(), within_s=120)
    assert runner.poll(job.store, job.record) is False


def test_a_job_that_waits_for_room_says_so_and_can_be_stopped(cluster: Nodes, eventually: Eventually) -> None:
    """More GPUs than the cluster has: QUEUED, with a reason; a stop ends it, and nothing was run."""
    job = RAY_RANKS.submit(learns, gpus_per_rank=3)
    eventually(lambda: "room for 2 ranks with 3 GPUs each" in job.record.message, within_s=300)
    assert job.state is Status.QUEUED
    job.stop()
    assert job.wait(120) is Status.STOPPED
    assert job.record.started_at is None


@pytest.mark.long
def test_a_gpu_that_pytorch_does_not_find_is_told(cluster: Nodes) -> None:
    """The cluster gives what it says that it has; training on the CPU instead would be no favour."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has what the test wants missing")
    job = RAY.submit(learns, gpus_per_rank=1)
    assert job.wait(300) is Status.FAILED
    assert "the cluster gave GPU 0 of " in job.record.message
    assert "finds no CUDA there" in job.record.message


@contextmanager
def guarded(address: str, token: str) -> Iterator[str]:
    """The same cluster behind a door that asks for a token, as Ray's own does; yields its address."""

    class Door(BaseHTTPRequestHandler):
        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or None
            told = self.headers.get("Authorization")
            if told != f"Bearer {token}":
                self._answer(403 if told else 401, b"no token, or a wrong one")
                return
            kind = {"Content-Type": self.headers["Content-Type"]} if body else {}
            request = urllib.request.Request(address + self.path, body, kind, method=self.command)
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    self._answer(answer.status, answer.read())
            except urllib.error.HTTPError as error:
                self._answer(error.code, error.read())

        do_GET = do_POST = do_PUT = _pass_on  # noqa: N815

        def _answer(self, code: int, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Door) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


def test_a_token_lets_in_and_what_the_cluster_does_not_know_is_interrupted(
    cluster: Nodes, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    """Without the token, or with another, nothing is made; gone is what the cluster says is gone."""
    with guarded(cluster.address, "secret") as address:
        monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
        with pytest.raises(RunnerError, match="wants a token; set RAY_AUTH_TOKEN"):
            RAY.submit(learns, address=address)
        monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
        with pytest.raises(RunnerError, match="does not accept the token in RAY_AUTH_TOKEN"):
            RAY.submit(learns, address=address)
        assert tk.jobs() == []
        monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
        job = RAY.submit(learns, address=address, epochs=1)
        assert job.wait(300) is Status.COMPLETED
        # Its parent has gone, too.
        eventually(lambda: runner.poll(job.store, job.store.read(job.id)) is False, within_s=120)
        record = job.store.read(job.id)
        record.status, record.finished_at, record.ended_by = Status.RUNNING, None, None
        job.store.write_record(record, durable=False)
        handle = job.store.handle(job.id)
        assert handle is not None
        handle.processes = [Process(1, 1.0, "another boot", "another host")]
        handle.detail = runner.Place(address, f"{job.id}-2-unknown").detail(job.id)
        job.store.write_handle(job.id, handle)
        eventually(lambda: runner.poll(job.store, record) is False, within_s=60)
        assert job.state is Status.INTERRUPTED
        with pytest.raises(JobInterruptedError):
            job.result()
        assert json.loads(job.paths.handle.read_bytes())["detail"]["address"] == address
        assert msgspec.json.decode(job.paths.record.read_bytes())["status"] == "RUNNING", "a reader writes nothing"


@pytest.mark.long
def test_the_notebook_of_clusters_gives_the_same_there(cluster: Nodes, tmp_path: Path) -> None:
    """Every output is that of two ranks on one machine, once `address=` is told."""
    notebook = copied("07-from-laptop-to-cluster.ipynb", tmp_path)
    before = notebook.read_text()
    told = before.replace("batch_size=16, ranks=2)", f"batch_size=16, ranks=2, address='{cluster.address}')")
    assert told != before
    notebook.write_text(told)
    report = run_and_compare(notebook, tmp_path / "queue")
    assert report.passed, report.text


def keepers(folder: Path) -> list[psutil.Process]:
    """Who keeps the cluster of this machine: the one that stands by, then the one that has started Ray."""
    # A zombie has no words.
    told = [(each, each.info["cmdline"] or []) for each in psutil.process_iter(["cmdline"])]
    found = [each for each, words in told if {"trainkit.runners.raylocal", str(folder)} <= set(words)]
    return sorted(found, key=lambda each: each.create_time())


@pytest.mark.long
def test_a_cluster_of_this_machine_says_so_listens_on_loopback_only_and_ends_after_its_last_job(
    root: Path, tmp_path: Path, eventually: Eventually
) -> None:
    """`address="local"`: started for the first job, found by others, and gone a minute after.

    Those that come while it starts wait for it, or are killed without.
    """
    job = tk.submit(learns, ranks=2, address="local", epochs=4, pause_s=0.15)
    second = tk.submit(learns, address="local", epochs=1)
    unwanted = tk.submit(learns, address="local")
    for each in (job, second, unwanted):
        eventually(lambda each=each: "starting Ray on this machine" in each.record.message, within_s=60)  # type: ignore[misc]
    assert unwanted.kill() is Status.STOPPED
    RAY_RANKS.started(job, eventually)
    keeper, _ = keepers(tmp_path / "queue")
    family = keeper.children(recursive=True)
    listening = set()
    for process in family:
        try:
            listening |= {each.laddr.ip for each in process.net_connections("inet") if each.status == "LISTEN"}
        except psutil.Error:
            continue  # Ray's processes come and go
    assert {ip.replace("::ffff:", "") for ip in listening} == {"127.0.0.1"}
    assert any("raylet" in each.name() for each in family)
    assert job.wait(300) is Status.COMPLETED
    assert second.wait(300) is Status.COMPLETED
    assert keeper.is_running(), "the second job found the cluster of the first"
    _, left = psutil.wait_procs([keeper, *family], timeout=200)
    assert left == []


@pytest.mark.long
@pytest.mark.parametrize("victim", [0, 1], ids=["stands by", "has started Ray"])
def test_of_a_cluster_of_this_machine_nothing_is_left_when_its_keeper_is_killed(
    root: Path, tmp_path: Path, eventually: Eventually, victim: int
) -> None:
    """Of two who keep it the other ends all, with the job that ran there; the next job has another cluster."""
    job = tk.submit(learns, address="local", epochs=10_000, pause_s=0.05)
    RAY.started(job, eventually, step=12)
    both = keepers(tmp_path / "queue")
    family = {each for keeper in both for each in keeper.children(recursive=True)}
    assert len(family) > 5, "of Ray and of the job"
    session = next(Path(word) for word in both[1].cmdline() if "trainkit-ray-" in word)
    both[victim].kill()
    eventually(lambda: not any(is_alive(each) for each in {*both, *family}), within_s=120)
    assert not session.exists()
    assert job.state is Status.INTERRUPTED
    assert job.record.checkpoint is not None
    job.resume()
    eventually(job.running, within_s=RAY.within_s)
    job.stop()
    assert job.wait(300) is Status.STOPPED
    keepers(tmp_path / "queue")[0].terminate()  # rather than wait for a minute
    eventually(lambda: keepers(tmp_path / "queue") == [], within_s=120)
