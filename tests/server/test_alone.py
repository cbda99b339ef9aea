"""The extension alone, as ``trainkit serve`` and ``jupyter trainkit`` run it."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from tests.server.conftest import TOKEN, RunningServer, end, environment_of, free_port, start
from trainkit.api.job import Job
from trainkit.api.launching import submit
from trainkit.errors import OptionError
from trainkit.server.alone import arguments

#: A configuration that would open everything.
OPEN = """
c.ServerApp.jpserver_extensions = {"jupyter_server_terminals": True, "jupyterlab": True}
c.ServerApp.extra_services = ["jupyter_server.services.contents.handlers"]
c.ServerApp.ip = "0.0.0.0"
"""


def serve(folder: Path, base_url: str = "/") -> RunningServer:
    """Start ``trainkit serve``."""
    root = folder / "root"
    root.mkdir(exist_ok=True)
    (folder / "config").mkdir(exist_ok=True)
    (folder / "config" / "jupyter_server_config.py").write_text(OPEN)
    (folder / "config" / "jupyter_trainkit_config.py").write_text(OPEN)
    port = free_port()
    arguments = [sys.executable, "-m", "trainkit", "serve", "--port", str(port), "--root", str(root)]
    arguments += ["--base-url", base_url]
    return start(arguments, f"http://127.0.0.1:{port}{quote(base_url)}", folder, root, environment_of(folder))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The extension alone."""
    server = serve(tmp_path_factory.mktemp("alone"))
    yield server
    end(server)


@pytest.mark.parametrize(
    "path",
    [
        *("api", "api/status", "api/kernels", "api/kernelspecs", "api/sessions", "api/contents", "api/terminals"),
        *("api/contents/artifacts", "files/t.csv", "static/favicon.ico", "favicon.ico", "login", "logout", "lab"),
        *(
            "tree",
            "metrics",
            "api/config/x",
            "api/me",
            "nbconvert/html/x",
            "terminals/websocket/1",
            "api/shutdown",
        ),
        *("api/kernels/x/channels", "api/events/subscribe", "kernelspecs/x", "view/x", "lsp/status", "edit/x"),
    ],
)
def test_nothing_else_is_exposed(alone: RunningServer, path: str) -> None:
    """Neither with the token nor without, neither to read nor to write, whatever a configuration file says."""
    for method in ("GET", "POST", "PUT", "DELETE"):
        assert alone.request(method, path, token=None).status == 403
        answer = alone.request(method, path)
        assert (answer.status, answer.json["ok"]) == (404, False)


def test_our_routes_are_there(alone: RunningServer) -> None:
    """Health for everybody, the rest with the token."""
    assert alone.request("GET", "health", token=None).json["service"] == "trainkit"
    assert alone.get("api/train/jobs").json["ok"] is True
    assert alone.request("GET", "api/train/jobs", token=None).status == 403
    assert alone.get("api/train/openapi.json").json["openapi"].startswith("3.1")


def test_the_address_leads_to_the_jobs(alone: RunningServer) -> None:
    """What was printed opens in a browser: `/` with the token shows the list."""
    host = urlsplit(alone.url).netloc
    with contextlib.closing(http.client.HTTPConnection(host)) as connection:
        connection.request("GET", f"/?token={TOKEN}")
        answer = connection.getresponse()
        answer.read()
    assert (answer.status, answer.headers["Location"]) == (302, f"/api/train/jobs?token={TOKEN}")


def test_it_listens_on_this_machine_only(alone: RunningServer) -> None:
    """A configuration file that says 0.0.0.0 is for another server."""
    port = f"{urlsplit(alone.url).port:04X}"
    listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    assert [row[1] for row in listening if row[1].endswith(f":{port}") and row[3] == "0A"] == [f"0100007F:{port}"]


@pytest.mark.extended
def test_jobs_go_on_without_the_server_and_are_found_again(
    tmp_path: Path, eventually: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One Ctrl-C ends it at once, with a page following; the next server finds and stops the job."""
    server = serve(tmp_path)
    monkeypatch.setenv("TRAINKIT_QUEUE", server.environment["TRAINKIT_QUEUE"])
    (server.root / "t.csv").write_text("a,y\n" + "".join(f"{n},{n % 2}\n" for n in range(100)))
    answer = server.post("api/train", {"data": "t.csv", "target": "y", "epochs": 1_000_000})
    assert answer.status == 201, answer.text
    job = Job(answer.json["job_id"], server.root)
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=20)
    connection.request("GET", f"/api/train/events?job_id={job.id}&token={TOKEN}")
    following = connection.getresponse()
    assert following.readline().startswith(b"id: ")
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(timeout=60) == 0
    connection.close()
    assert "Traceback" not in server.log.read_text()
    assert not job.done()
    again = serve(tmp_path)
    found = again.get("api/train/jobs").json["jobs"]
    assert [one["job_id"] for one in found] == [job.id]
    assert again.post("api/train/kill", {"job_id": job.id}).json["status"] == "STOPPED"
    end(again)


def test_a_port_that_is_taken_is_said_in_one_line(alone: RunningServer) -> None:
    """With what to do about it; no other port is taken silently."""
    port = str(urlsplit(alone.url).port)
    command = [sys.executable, "-m", "trainkit", "serve", "--port", port, "--root", str(alone.root)]
    done = subprocess.run(command, capture_output=True, text=True, env=alone.environment, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert port in done.stderr
    assert "another port" in done.stderr


def test_programs_get_the_address_as_json(tmp_path: Path) -> None:
    """With a token of its own, which was never told and is not in the environment."""
    environment = environment_of(tmp_path)
    del environment["JUPYTER_TOKEN"]
    command = [sys.executable, "-m", "trainkit", "serve", "--port", "0", "--root", str(tmp_path), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    try:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        assert (told["ok"], told["pid"], told["root"]) == (True, process.pid, str(tmp_path))
        assert len(told["token"]) >= 32
        server = RunningServer(process, told["url"], tmp_path, environment, tmp_path / "log")
        assert server.request("GET", "api/train/jobs", token=told["token"]).status == 200
        assert server.request("GET", "api/train/jobs", token="wrong").status == 403
    finally:
        process.terminate()
        process.communicate(timeout=60)


def test_it_is_a_subcommand_of_jupyter(tmp_path: Path) -> None:
    """``jupyter trainkit`` takes the options of Jupyter Server."""
    port = free_port()
    arguments = [
        sys.executable,
        "-m",
        "jupyter",
        "trainkit",
        f"--ServerApp.port={port}",
        "--ServerApp.base_url=/b/",
    ]
    server = start(arguments, f"http://127.0.0.1:{port}/b/", tmp_path, tmp_path, environment_of(tmp_path))
    assert server.get("api/train/jobs").status == 200
    assert server.get("api/kernels").status == 404
    assert server._replace(url=f"http://127.0.0.1:{port}/").get("api/train/jobs").status == 404
    end(server)


def test_installing_enables_the_extension() -> None:
    """Jupyter Server finds it in its configuration folders, with nobody having enabled it."""
    done = subprocess.run(
        [sys.executable, "-m", "jupyter", "server", "extension", "list"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "trainkit.server" in done.stdout + done.stderr
    line = next(line for line in (done.stdout + done.stderr).splitlines() if "trainkit.server" in line)
    assert "enabled" in line


def noted(job: Any) -> None:
    """Do nothing."""


def test_a_thread_job_of_a_notebook_is_seen(alone: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server only reads files: whoever runs the job."""
    monkeypatch.setenv("TRAINKIT_QUEUE", alone.environment["TRAINKIT_QUEUE"])
    job = submit(noted, root=alone.root)
    job.wait(10)
    assert alone.get("api/train/status", job_id=job.id).json["status"]["status"] == "COMPLETED"


@pytest.mark.parametrize("token", ["", " ", None])
@pytest.mark.parametrize("variable", [None, "", "\t"])
def test_an_empty_token_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str | None, variable: str | None
) -> None:
    """On the command line and in the environment; where there is none, one is made."""
    monkeypatch.delenv("JUPYTER_TOKEN", raising=False)
    if variable is not None:
        monkeypatch.setenv("JUPYTER_TOKEN", variable)
    if token is None and variable is None:
        assert arguments(port=0, root=tmp_path, token=token)
        return
    with pytest.raises(OptionError, match="the token is empty.*JUPYTER_TOKEN"):
        arguments(port=0, root=tmp_path, token=token)


def test_a_configuration_without_authentication_is_refused(tmp_path: Path) -> None:
    """`jupyter trainkit` takes the options of Jupyter Server."""
    environment = environment_of(tmp_path)
    del environment["JUPYTER_TOKEN"]
    words = [sys.executable, "-c", "from trainkit.server.app import main; main()", "--IdentityProvider.token="]
    done = subprocess.run(
        [*words, f"--ServerApp.port={free_port()}"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode != 0
    assert "the token is empty" in done.stderr
