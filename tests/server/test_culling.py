"""The culler of idle kernels leaves a kernel alone whose jobs run, and so does that of a hub.

On a real Jupyter Server that culls after three seconds, with real kernels.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import websocket

from tests.server.conftest import TOKEN, RunningServer, end, jupyter_server
from trainkit.runners.slots import Ticket

Eventually = Callable[..., None]

CELL = """
import os, time
import trainkit as tk
from trainkit.runners import kernel

def wait(run, released):
    while not os.path.exists(released):
        time.sleep(0.05)

kernel.EVERY_S = {every_s}
job = tk.submit(wait, released={released!r})
"""


@pytest.fixture
def culling_server(tmp_path: Path) -> Iterator[RunningServer]:
    """A server that culls kernels that are idle for three seconds."""
    server = jupyter_server(
        tmp_path,
        "--MappingKernelManager.cull_idle_timeout=3",
        "--MappingKernelManager.cull_interval=1",
    )
    yield server
    end(server)


def kernel_ids(server: RunningServer) -> set[str]:
    return {kernel["id"] for kernel in server.request("GET", "api/kernels").json}  # type: ignore[attr-defined]


def started(server: RunningServer, cell: str) -> str:
    """Start a kernel and run a cell in it, as a page does; while a page is connected, no kernel is culled.

    On a busy machine a kernel may take longer to start than it may be idle; then another one is tried.
    """
    for _ in range(5):
        with contextlib.suppress(websocket.WebSocketException, OSError):
            return tried(server, cell)
    pytest.fail("every kernel was culled while it started")


def tried(server: RunningServer, cell: str) -> str:
    kernel_id: str = server.request("POST", "api/kernels", {"name": "python3"}).json["id"]
    url = server.url.replace("http", "ws", 1) + f"api/kernels/{kernel_id}/channels"
    page = websocket.create_connection(url, header=[f"Authorization: token {TOKEN}"], timeout=20)
    header = {"msg_id": "cell", "msg_type": "execute_request", "session": "page", "username": "", "version": "5.3"}
    content = {"code": cell, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
    request = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
    try:
        page.send(json.dumps(request))
        while (reply := json.loads(page.recv()))["msg_type"] != "execute_reply":
            pass
        assert reply["content"]["status"] == "ok", reply["content"]
    finally:
        page.close()
    return kernel_id


@pytest.mark.extended
def test_a_kernel_whose_job_runs_is_not_culled(culling_server: RunningServer, eventually: Eventually) -> None:
    """It outlives an idle kernel, and one whose job tells nobody; it goes when its job is over."""
    server = culling_server
    released = server.root / "released"
    busy = started(server, CELL.format(every_s=0.5, released=str(released)))
    silent = started(server, CELL.format(every_s=3600, released=str(released)))
    idle = started(server, "1 + 1")
    eventually(lambda: not kernel_ids(server) & {silent, idle}, within_s=60)
    time.sleep(1.5)  # that it is still there is only shown by waiting
    assert kernel_ids(server) == {busy}
    released.touch()
    eventually(lambda: kernel_ids(server) == set(), within_s=60)


def test_jobs_count_as_activity_of_the_server(server: RunningServer, eventually: Eventually) -> None:
    """What a hub asks for stands still without a job, and moves on while one runs, wherever it runs."""

    def last_activity() -> str:
        found: str = server.request("GET", "api/status").json["last_activity"]
        return found

    before = last_activity()
    time.sleep(0.6)
    assert last_activity() == before
    ticket = Ticket("a-job")
    try:
        eventually(lambda: last_activity() > before)
    finally:
        ticket.close()
