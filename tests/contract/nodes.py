"""A Ray cluster of two nodes on loopback, and how to lose a part of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from trainkit.files.trust import STATE_VARIABLE
from trainkit.runners.raylocal import free_ports, loopback_environment


class Nodes:
    """Two nodes of one CPU and, as they say, one GPU each, with a HOME of their own.

    Args:
        folder: where Ray keeps its logs and sockets.

    Attributes:
        address: of the cluster's dashboard.
    """

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        self.folder = folder
        (folder / "ray").mkdir()  # where Ray notes the newest cluster
        for patience in (2, 1, 0):
            self._cluster = Cluster()
            try:
                head = self._node(include_dashboard=True, dashboard_host="127.0.0.1", temp_dir=str(folder))
                self.address = f"http://{head.webui_url}"
                self.last = self._node()
            except Exception:
                # Ray gives up on itself where a machine is too busy to start its agents within 15 s.
                assert self.end() == []
                if not patience:
                    raise
            else:
                return

    def _node(self, **options: Any) -> Any:
        small: dict[str, Any] = {
            "num_cpus": 1,
            "num_gpus": 1,
            "object_store_memory": 80_000_000,
            "node_ip_address": "127.0.0.1",
        }
        with self._environment():
            return self._cluster.add_node(**small, **_ports(), **options)

    @contextmanager
    def _environment(self) -> Iterator[None]:
        """What the nodes inherit; the tests themselves keep their HOME and their private key."""
        with pytest.MonkeyPatch.context() as patch:
            own = {name: str(self.folder) for name in ("HOME", "RAY_TMPDIR", STATE_VARIABLE)}
            for name, value in {**loopback_environment(), **own}.items():
                patch.setenv(name, value)
            yield

    def lose_one(self) -> None:
        """Kill a node with all that runs there, and let another join."""
        self._cluster.remove_node(self.last, allow_graceful=False)
        self.last = self._node()

    @contextmanager
    def among_others(self) -> Iterator[None]:
        """Have another cluster on this machine, started later, that does not answer.

        Ray looks for clusters by the words of their raylets, and takes the one that was noted last.
        """
        nobody = "127.0.0.1:9"
        note = self.folder / "ray_current_cluster"
        note.write_text(nobody)
        words = ["raylet", "-c", "import sys; sys.stdin.read()", f"--gcs-address={nobody}"]
        with subprocess.Popen(words, executable=sys.executable, stdin=subprocess.PIPE) as raylet:
            yield
            raylet.communicate()
        note.unlink()

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

    def listening(self) -> set[str]:
        """The addresses that processes of the cluster listen on."""
        found: set[str] = set()
        for process in self.processes():
            try:
                connections = process.net_connections("inet")
            except psutil.NoSuchProcess:
                continue  # Ray's processes come and go
            found |= {each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN}
        return {ip.replace("::ffff:", "") for ip in found}

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


def _ports() -> dict[str, int]:
    """Every port by name: for those that are not, Ray waits 15 s for its agents, too short on a busy machine."""
    names = ["metrics_agent_port", "runtime_env_agent_port", "dashboard_agent_listen_port", "metrics_export_port"]
    return dict(zip(names, free_ports(len(names)), strict=True))
