"""Real servers, each in a process of its own: Jupyter Server with the extension, and the extension alone."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from trainkit.api.launching import submit
from trainkit.files.store import ROOT_VARIABLE
from trainkit.runners.slots import FOLDER_VARIABLE, LIMIT_VARIABLE

TOKEN = "a-token-of-the-tests"


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: Mapping[str, str]
    text: str
    cookies: list[tuple[str, str]]

    @property
    def json(self) -> dict[str, Any]:
        """The body, as strict JSON."""

        def refuse(constant: str) -> None:
            raise ValueError(f"{constant} is not JSON")

        found: dict[str, Any] = json.loads(self.text, parse_constant=refuse)
        return found


class RunningServer(NamedTuple):
    """A server, and how to talk to it."""

    process: subprocess.Popen[bytes]
    url: str
    root: Path
    environment: dict[str, str]
    log: Path

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = TOKEN,
        headers: dict[str, str] | None = None,
        timeout_s: float = 30.0,
    ) -> Answer:
        """Send a request; a body that is not bytes goes as JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method, headers=headers or {})
        if token is not None:
            request.add_header("Authorization", f"token {token}")
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as response:
                return _answer(response)
        except urllib.error.HTTPError as error:
            return _answer(error)

    def post_huge(self, path: str, *, size: int, chunked: bool, token: str | None = TOKEN) -> int | None:
        """Send a body as long as the server takes it; return the status, None if it hung up before it was read."""
        host = urllib.parse.urlsplit(self.url)
        connection = http.client.HTTPConnection(host.netloc, timeout=30)
        connection.putrequest("POST", host.path + path)
        if token is not None:
            connection.putheader("Authorization", f"token {token}")
        connection.putheader(*(("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(size))))
        connection.endheaders()
        piece = b"x" * (1 << 20)
        try:
            for _ in range(size // len(piece)):
                connection.send(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
            connection.send(b"0\r\n\r\n" if chunked else b"")
        except OSError:
            pass  # it has answered and hung up, as it should
        try:
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def get(self, path: str, **query: Any) -> Answer:
        """GET with the token."""
        return self.request("GET", path + ("?" + urllib.parse.urlencode(query) if query else ""))

    def post(self, path: str, body: Any) -> Answer:
        """POST with the token."""
        return self.request("POST", path, body)

    def peak_memory_mb(self) -> float:
        """The most memory that the server has had."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def _answer(response: Any) -> Answer:
    cookies = [(name, value) for name, value in response.headers.items() if name.lower() == "set-cookie"]
    return Answer(response.status, response.headers, response.read().decode(), cookies)


def free_port() -> int:
    """Return a port that nobody uses at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def environment_of(folder: Path) -> dict[str, str]:
    """Return an environment in which a server sees nothing of this machine's settings."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("TRAINKIT", "JUPYTER"))
    }
    return {
        **environment,
        "HOME": str(folder),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "JUPYTER_TOKEN": TOKEN,
        FOLDER_VARIABLE: str(folder / "queue"),
        LIMIT_VARIABLE: "8",
        "OMP_NUM_THREADS": "1",  # jobs that train on and on leave a core to the test
    }


def start(arguments: list[str], url: str, folder: Path, root: Path, environment: dict[str, str]) -> RunningServer:
    """Start a server and wait until it answers."""
    log = folder / "server.log"
    with open(log, "wb") as output:
        process = subprocess.Popen(arguments, stdout=output, stderr=output, env=environment, cwd=root)
    server = RunningServer(process, url, root, environment, log)
    give_up_at = time.monotonic() + 100
    while True:
        try:
            if server.request("GET", "health", token=None).status == 200:
                return server
        except OSError:
            pass
        if process.poll() is not None or time.monotonic() > give_up_at:
            process.kill()
            process.wait()
            pytest.fail(f"no server at {url}:\n{log.read_text()}")
        time.sleep(0.05)


def jupyter_server(
    folder: Path, *settings: str, base_url: str = "/", app: str = "jupyter_server", alone: bool = True
) -> RunningServer:
    """Start a Jupyter Server, with no other extension, or as it is installed here."""
    root = folder / "a root; with 'odd' näme"
    root.mkdir()
    port = free_port()
    extensions = {"trainkit.server": True}
    for other in ("jupyterlab", "jupyter_lsp", "notebook_shim", "notebook", "jupyter_server_terminals"):
        extensions[other] = False
    arguments = [
        *(sys.executable, "-m", app, "--no-browser", "--allow-root", f"--port={port}"),
        f"--ServerApp.root_dir={root}",
        f"--ServerApp.base_url={base_url}",
        *([f"--ServerApp.jpserver_extensions={extensions}"] if alone else []),
        *settings,
    ]
    return start(arguments, f"http://127.0.0.1:{port}{base_url}", folder, root, environment_of(folder))


def end(server: RunningServer) -> None:
    """Stop a server."""
    server.process.terminate()
    server.process.wait(timeout=60)


@pytest.fixture(scope="session")
def session_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server under a base URL, for all tests that leave it as it was."""
    folder = tmp_path_factory.mktemp("jupyter")
    server = jupyter_server(folder, "--TrainkitApp.activity_every_s=0.2", base_url="/user/ann/")
    yield server
    end(server)


@pytest.fixture
def server(session_server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> RunningServer:
    """The server, with jobs of this process going to its root and its queue."""
    monkeypatch.setenv(ROOT_VARIABLE, str(session_server.root))
    monkeypatch.setenv(FOLDER_VARIABLE, session_server.environment[FOLDER_VARIABLE])
    monkeypatch.setenv(LIMIT_VARIABLE, "8")
    return session_server


@pytest.fixture
def start_job(server: RunningServer) -> Iterator[Callable[..., Any]]:
    """Start a job that goes on until it is told to end; it is told so when the test is over."""
    jobs = []

    def start_one(**options: Any) -> Any:
        jobs.append(submit(endless, **options))
        return jobs[-1]

    yield start_one
    for job in jobs:
        if job.paths.record.exists():  # else the test has deleted it
            job.stop()
            job.wait(timeout=60)


def endless(run: Any, lr: float = 0.1) -> None:
    """Count until told to stop."""
    import time

    print("begun")
    while True:
        run.log(loss=1.0 / (run.step + 1), lr=run.params.get("lr"))
        time.sleep(0.01)
