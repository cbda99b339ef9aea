"""A small Ray cluster on this machine, for ``address="local"``: started when it is needed, ended when it is not.

Two processes keep it, and hold a lock for as long as they live: ``python -m trainkit.runners.raylocal FOLDER``
stands by, and ``python -m trainkit.runners.raylocal FOLDER SESSION``, which it starts, starts Ray, and ends it a
minute after the last job has ended.  When either of them ends, however it does, the other ends all that is left.
Everything listens on loopback only, nothing is reported to anybody, and it has as many CPUs as this process may
use.  All users of a machine can connect to loopback, and a cluster runs the code of its callers as its owner.  So
it accepts only calls with a token, which is derived from this user's private key, and Ray's client server is not
started.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from trainkit.errors import RunnerError
from trainkit.files.locks import FileLock, is_locked, locked, try_lock
from trainkit.files.trust import derived
from trainkit.files.whole import write_atomically
from trainkit.runners.environment import without_private
from trainkit.runners.orphans import adopt_orphans
from trainkit.runners.process import kill_descendants
from trainkit.runners.slots import queue_folder, usable_cores

#: How long the cluster may take to start, in seconds.
START_S = 120.0
#: How long it stays when no job runs, in seconds.
IDLE_S = 60.0
#: How often it is asked whether a job runs, in seconds.
LOOK_S = 2.0
#: The command ``ray`` as it is where Ray Client is not installed: no option keeps its server from being started.
_RAY_WITHOUT_CLIENT = (
    "from ray.scripts import scripts; "
    "scripts.get_ray_client_dependency_error = lambda: ImportError('not needed here'); "
    "scripts.main()"
)
#: Room for objects that tasks share; ranks share none.
OBJECT_STORE_BYTES = 80_000_000


class Cluster(msgspec.Struct, frozen=True):
    """Where a cluster is: its dashboard's address, and the one by which further nodes join it."""

    address: str
    gcs: str


def address(give_up: Callable[[], object] = lambda: False) -> str | None:
    """Return the address of this machine's cluster; start it if it does not run.

    Args:
        give_up: whether nobody wants to know any more; asked while the cluster starts.

    Returns:
        Its address, or None if it was given up.

    Raises:
        RunnerError: it does not start.
    """
    folder = queue_folder()
    note, log = folder / "ray.json", folder / "ray.log"
    give_up_at = time.monotonic() + START_S
    _have_keepers(folder, note, log)
    while not note.exists():
        if give_up():
            return None
        if time.monotonic() > give_up_at or is_locked(folder / "ray.lock") is not True:
            raise RunnerError(f"Ray did not start within {START_S:g} s, or not at all; see {log}")
        time.sleep(0.1)
    return msgspec.json.decode(note.read_bytes(), type=Cluster).address


def token(address: str) -> str:
    """Return the token of the cluster of this user whose dashboard is at an address."""
    return derived("local Ray cluster", address)


def _have_keepers(folder: Path, note: Path, log: Path) -> None:
    """Start who keeps the cluster, unless it is kept; others who want one meanwhile find it kept."""
    with locked(folder / "ray.mutex", timeout_s=START_S):
        if is_locked(folder / "ray.lock") is True:
            return
        note.unlink(missing_ok=True)
        with open(log, "ab") as said:
            keeper = subprocess.Popen(
                [sys.executable, "-m", "trainkit.runners.raylocal", str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        # It outlives this process; as long as that lives, somebody takes note of its end.
        threading.Thread(target=keeper.wait, name="trainkit-ray-keeper", daemon=True).start()
        while is_locked(folder / "ray.lock") is not True and keeper.poll() is None:
            time.sleep(0.02)


def main(arguments: list[str]) -> None:
    """Keep a cluster until nobody needs it, or stand by until who keeps it has ended."""
    folder, *session = map(Path, arguments)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # not without having ended the rest
    if session:
        _keep(folder, session[0])
    elif (lock := try_lock(folder / "ray.lock")) is not None:  # else another one was quicker
        _stand_by(folder, lock)


def _stand_by(folder: Path, lock: FileLock) -> None:
    session = Path(tempfile.mkdtemp(prefix="trainkit-ray-"))
    with _leaving_nothing(folder, session):
        # Its stdin ends when this process does.
        words = [sys.executable, "-m", "trainkit.runners.raylocal", str(folder), str(session)]
        with subprocess.Popen(words, stdin=subprocess.PIPE, pass_fds=(lock.fd,), start_new_session=True) as keeper:
            keeper.wait()


def _keep(folder: Path, session: Path) -> None:
    with _leaving_nothing(folder, session):
        cluster = start_node(session, cpus=usable_cores())
        write_atomically(folder / "ray.json", msgspec.json.encode(cluster), durable=False)
        _wait_until_idle(cluster)


@contextlib.contextmanager
def _leaving_nothing(folder: Path, session: Path) -> Iterator[None]:
    """End all that was started meanwhile, whatever has become of who started it."""
    adopt_orphans()
    try:
        yield
    finally:
        (folder / "ray.json").unlink(missing_ok=True)
        with contextlib.suppress(ChildProcessError):  # that none is left, not even one that was started just now
            while True:
                kill_descendants(os.getpid())
                os.waitpid(-1, 0)
        shutil.rmtree(session, ignore_errors=True)


def _wait_until_idle(cluster: Cluster) -> None:
    """Return a minute after the last job has ended, or when nobody stands by any more."""
    needed_at = time.monotonic()
    while time.monotonic() - needed_at < IDLE_S:
        if select.select([sys.stdin], [], [], LOOK_S)[0]:
            return
        try:
            request = urllib.request.Request(
                f"{cluster.address}/api/jobs/", headers={"Authorization": f"Bearer {token(cluster.address)}"}
            )
            with urllib.request.urlopen(request, timeout=10) as answer:
                jobs = json.load(answer)
        except OSError:
            continue  # a busy machine; after a minute of silence the cluster is of no use either
        if any(job["status"] in ("PENDING", "RUNNING") for job in jobs):
            needed_at = time.monotonic()


def start_node(session: Path, *, cpus: int, gcs: str | None = None) -> Cluster:
    """Start one node of a cluster on loopback; return when it is up.

    Args:
        session: where Ray keeps its logs and sockets.
        cpus: how many it offers.
        gcs: of the cluster that it joins; without it, it is the head of a new one.

    Raises:
        RunnerError: it does not start.
    """
    names = ["node-manager", "object-manager", "dashboard-agent-grpc", "dashboard-agent-listen", "metrics-export"]
    names += ["runtime-env-agent"]
    if gcs is None:
        names += ["dashboard", ""]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    command = [sys.executable, "-c", _RAY_WITHOUT_CLIENT, "start", "--disable-usage-stats"]
    command += ["--node-ip-address=127.0.0.1", "--min-worker-port=0", "--max-worker-port=0", f"--num-cpus={cpus}"]
    command += [f"--object-store-memory={OBJECT_STORE_BYTES}"]
    command += [f"--{name}-port={port}".replace("---", "--") for name, port in ports.items() if name]
    if gcs is None:
        gcs = f"127.0.0.1:{ports['']}"
        command += ["--head", f"--port={ports['']}", f"--temp-dir={session}", "--dashboard-host=127.0.0.1"]
    else:
        command += [f"--address={gcs}"]
    address = f"http://127.0.0.1:{ports.get('dashboard', 0)}"
    done = subprocess.run(
        command,
        env={**loopback_environment(), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token(address)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RunnerError(f"Ray does not start on this machine:\n{done.stdout[-2000:]}")
    return Cluster(address=address, gcs=gcs)


def loopback_environment() -> dict[str, str]:
    """Return an environment in which Ray stays on this machine and tells nobody of it."""
    return {
        **without_private(os.environ),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": f"{START_S:.0f}",  # for a busy machine
        # Despite its name: without it Ray takes 127.0.0.1 for a mistake and listens on all interfaces.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }


def free_ports(count: int) -> list[int]:
    """Return ports of loopback that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


if __name__ == "__main__":
    main(sys.argv[1:])
