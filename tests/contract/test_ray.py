"""What a job on a Ray cluster promises: the contract of every runner, over two nodes on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

import trainkit as tk
from trainkit.errors import JobInterruptedError, JobStoppedError, OptionError, RunnerError
from trainkit.files.owners import Process
from trainkit.files.record import Status
from trainkit.runners import ray as runner
from trainkit.runners.raylocal import free_ports, loopback_environment

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(600)]
Eventually = Callable[..., None]


class Nodes:
    """A cluster of our own, and how to lose a part of it."""

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        self.folder = folder
        for patience in (2, 1, 0):
            self._cluster = Cluster()
            try:
                head = self._node(
                    include_dashboard=True, dashboard_host="127.0.0.1", temp_dir=str(folder), **ports()
                )
                self.address = f"http://{head.webui_url}"
                self.last = self._node(**ports())
            except Exception:
                # Ray gives up on itself where a machine is too busy to start its agents within 15 s.
                assert self.end() == []
                if not patience:
                    raise
            else:
                return

    def _node(self, **options: Any) -> Any:
        small: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80_000_000, "node_ip_address": "127.0.0.1"}
        return self._cluster.add_node(**small, **options)

    def lose_one(self) -> None:
        """Kill a node with all that runs there, and let another join."""
        self._cluster.remove_node(self.last, allow_graceful=False)
        self.last = self._node(**ports())

    def processes(self) -> set[psutil.Process]:
        """All processes of the cluster: those that name its folder, and all below them (renamed)."""
        found: set[psutil.Process] = set()
        for process in psutil.process_iter():
            try:
                told = " ".join(process.cmdline()) + " ".join(process.environ().values())
                if str(self.folder) in told and process.pid != os.getpid():
                    found |= {process, *process.children(recursive=True)}
            except psutil.Error:
                continue
        return found

    def end(self) -> list[psutil.Process]:
        """End all of it; return who is still there."""
        known: set[psutil.Process] = set()
        for _ in range(10):
            known |= self.processes()  # before they are orphans, of which nobody knows where they belong
            for process in known:
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue
            _, left = psutil.wait_procs(known, timeout=5)
            if not left and not self.processes():
                return []
        return list(left)


def ports() -> dict[str, int]:
    """Every port by name: for those that are not, Ray waits 15 s for its agents, too short on a busy machine."""
    names = ["metrics_agent_port", "runtime_env_agent_port", "dashboard_agent_listen_port", "metrics_export_port"]
    return dict(zip(names, free_ports(len(names)), strict=True))


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """Two nodes of one CPU each, with a HOME of their own."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="tk-ray-") as folder:
        Path(folder, "ray").mkdir()  # where Ray notes the newest cluster
        for name, value in {**loopback_environment(), "HOME": folder, "RAY_TMPDIR": folder}.items():
            patch.setenv(name, value)
        started = Nodes(Path(folder))
        try:
            yield started
        finally:
            left = started.end()
        assert left == []


@pytest.fixture
def cluster(nodes: Nodes, root: Path, monkeypatch: pytest.MonkeyPatch) -> Nodes:
    """The cluster, as the one that ``runner="ray"`` finds by itself."""
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", nodes.address)
    return nodes


def learns(run: Any, epochs: int = 4, pause_s: float = 0.0, batch_size: int = 16, fails_on: int = -1) -> Any:
    """Train a small network as people write it."""
    import time

    import torch
    from torch.utils.data import DataLoader, TensorDataset

    torch.manual_seed(0)
    x = torch.randn(256, 8)
    y = x @ torch.randn(8, 1)
    model = run.prepare(torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(1)
    run.track(model=model, optimizer=optimizer)
    run.checkpoint_every(steps=20)
    loader = DataLoader(TensorDataset(x, y), batch_size, shuffle=True, generator=generator)
    if run.rank == 0:
        print("training begins")
    for _ in run.epochs(epochs):
        for rows, targets in run.batches(loader):
            if run.rank == fails_on and run.step == 5:
                raise ValueError("the data is wrong")
            loss = torch.nn.functional.mse_loss(model(rows), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
            time.sleep(pause_s)
    return model


def by_value(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function as a notebook has it: not importable on the other side."""
    function.__module__ = "__main__"
    return function


by_value(learns)


def started(job: tk.Job, eventually: Eventually, *, step: int = 2) -> tk.Job:
    """Wait until a job has taken a few steps."""
    eventually(lambda: job.record.step > step or job.done(), within_s=300)
    assert job.state is Status.RUNNING, job.record.message
    return job


def test_two_ranks_on_two_nodes_reach_the_weights_of_one_and_listen_on_loopback_only(
    cluster: Nodes, eventually: Eventually
) -> None:
    """One set of files, one line a step; the panel's fields; what one rank computes with the combined batch."""
    one = tk.submit(learns, runner="process", batch_size=32, epochs=4)
    two = tk.submit(learns, runner="ray", ranks=2, batch_size=16, epochs=4, pause_s=0.15)
    started(two, eventually)
    seen = {
        connection.laddr.ip.replace("::ffff:", "")
        for process in cluster.processes()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert seen == {"127.0.0.1"}
    assert two.wait(300) is Status.COMPLETED
    assert one.wait(60) is Status.COMPLETED
    for (name, a), (_, b) in zip(one.model().items(), two.model().items(), strict=True):
        assert (a - b).abs().max() < 1e-5, name
    record = two.record
    assert (record.step, record.total_steps, record.runner, record.resources.ranks) == (32, 32, "ray", 2)
    assert [each.rank for each in record.ranks] == [0, 1]
    assert len({each.node for each in record.ranks}) == 2, "two nodes of one CPU each"
    assert all(each.steps_per_s for each in record.ranks)
    assert two.logs() == "training begins\n"
    assert two.metrics().index.tolist() == list(range(1, 33))
    assert sorted(two.result().state_dict()) == sorted(two.model())


def test_a_lost_rank_and_a_lost_node_begin_again_from_the_checkpoint_and_a_stop_saves(
    cluster: Nodes, eventually: Eventually
) -> None:
    """The group starts again from its checkpoint, up to retries; the record tells; a stop then ends it."""
    job = started(tk.submit(learns, runner="ray", ranks=2, epochs=10_000, pause_s=0.05, retries=2), eventually)
    eventually(lambda: job.record.checkpoint is not None and job.record.ranks, within_s=60)
    os.kill(job.record.ranks[1].pid, signal.SIGKILL)
    eventually(lambda: job.record.restarts == 1, within_s=120)
    assert not job.done()
    started(job, eventually, step=(job.record.checkpoint.step if job.record.checkpoint else 0) + 5)
    assert (job.record.attempt, job.record.restarts) == (2, 1)
    told = [event for event in job.events() if event["event"] == "restart"]
    assert "restart 1 of 2, from its checkpoint: rank" in told[0]["message"]
    saved = job.record.checkpoint
    cluster.lose_one()
    eventually(lambda: job.record.restarts == 2, within_s=180)
    assert saved is not None
    eventually(
        lambda: job.record.status is Status.RUNNING and job.record.step > (saved.step or 0) + 5, within_s=300
    )
    assert job.stop() in (Status.STOPPING, Status.STOPPED)
    assert job.wait(60) is Status.STOPPED
    assert job.record.checkpoint is not None
    assert job.record.checkpoint.step == job.record.step, "a stop saves"
    with pytest.raises(JobStoppedError):
        job.result()
    assert job.metrics().index.is_unique


def test_an_exception_of_any_rank_ends_the_job_at_once(cluster: Nodes) -> None:
    """It is that of the user's code, with its line, however often the job might be tried again."""
    job = tk.submit(learns, runner="ray", ranks=2, retries=3, fails_on=1)
    assert job.wait(300) is Status.FAILED
    record = job.record
    assert (record.restarts, record.attempt) == (0, 1)
    assert record.error is not None
    assert (record.error.type, record.error.message) == ("ValueError", "the data is wrong")
    assert record.message == "ValueError: the data is wrong (rank 1)"
    assert 'raise ValueError("the data is wrong")' in record.error.traceback


def test_it_outlives_its_notebook_and_is_read_resumed_and_killed_from_another(
    cluster: Nodes, root: Path, eventually: Eventually
) -> None:
    """The kernel is killed; another process attaches, pauses, resumes and kills; nothing is left behind."""
    (root / "beside.py").write_text("PAUSE_S = 0.02\n")
    script = f"""
        import sys, time
        sys.path.insert(0, {str(root)!r})
        import trainkit as tk
        def fit(run):
            import time
            import beside
            for _ in run.epochs(10_000):
                for _ in run.batches(range(100)):
                    time.sleep(beside.PAUSE_S)
                    run.log(loss=1.0)
        job = tk.submit(fit, runner="ray", job_id="survivor")
        time.sleep(600)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], cwd=root) as notebook:
        eventually(lambda: "survivor" in [job.id for job in tk.jobs()], within_s=60)
        job = tk.attach("survivor")
        eventually(lambda: job.record.pid is not None, within_s=120)
        notebook.kill()
    started(job, eventually)
    assert runner.poll(job.store, job.record) is True
    assert job.pause() is Status.PAUSED
    assert job.resume() is Status.RUNNING
    pid = job.record.pid
    assert pid is not None
    assert job.kill() is Status.STOPPED
    assert job.record.ended_by == "user"
    eventually(lambda: not psutil.pid_exists(pid), within_s=30)
    assert not (job.paths.folder / "ray").exists()
    assert runner.poll(job.store, job.record) is False


def test_a_job_that_waits_for_room_says_so_and_can_be_stopped(cluster: Nodes, eventually: Eventually) -> None:
    """More ranks than the cluster has CPUs: QUEUED, with a reason; a stop ends it, and nothing was run."""
    job = tk.submit(learns, runner="ray", ranks=50)
    eventually(lambda: "room for 50 ranks" in job.record.message, within_s=120)
    assert job.state is Status.QUEUED
    job.stop()
    assert job.wait(60) is Status.STOPPED
    assert job.record.started_at is None


def test_a_job_that_its_cluster_does_not_know_is_interrupted_and_an_unreachable_one_is_unknown(
    cluster: Nodes, eventually: Eventually
) -> None:
    """Gone is what the cluster says is gone; where it cannot be asked nobody is called dead."""
    job = tk.submit(learns, runner="ray", epochs=1)
    assert job.wait(300) is Status.COMPLETED
    eventually(
        lambda: runner.poll(job.store, job.store.read(job.id)) is False, within_s=120
    )  # its parent has gone
    record = job.store.read(job.id)
    record.status, record.finished_at, record.ended_by = Status.RUNNING, None, None
    job.store.write_record(record, durable=False)
    handle = job.store.handle(job.id)
    assert handle is not None
    handle.processes = [Process(1, 1.0, "another boot", "another host")]
    handle.detail["submission_id"] = "nobody-knows-it"
    job.store.write_handle(job.id, handle)
    assert runner.poll(job.store, record) is False
    assert job.state is Status.INTERRUPTED
    with pytest.raises(JobInterruptedError):
        job.result()
    handle.detail = {"address": "http://127.0.0.1:9", "submission_id": "out-of-reach"}
    job.store.write_handle(job.id, handle)
    assert runner.poll(job.store, record) is None
    assert job.state is Status.RUNNING, "not lost: unknown"
    with pytest.raises(RunnerError, match="cannot be asked to kill it"):
        runner.kill(job.store, record)
    assert json.loads(job.paths.handle.read_bytes())["detail"]["address"] == "http://127.0.0.1:9"
    assert msgspec.json.decode(job.paths.record.read_bytes())["status"] == "RUNNING", "a reader writes nothing"


def test_a_wrong_address_leaves_nothing_behind(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address where no cluster answers, or that is none, is an error before anything is made."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    for address, error in [
        ("http://127.0.0.1:9", "no Ray cluster answers at http://127.0.0.1:9"),
        ("head:8265", "with http:// and its port"),
        (None, "needs address="),
    ]:
        with pytest.raises((RunnerError, OptionError), match=error):
            tk.submit(learns, runner="ray", address=address)
    assert list(root.iterdir()) == []
