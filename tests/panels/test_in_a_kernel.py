"""The displays of a job in a real kernel: with a front end that draws panels, and without one."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import KernelManager

FIT = """
import time, threading, trainkit as tk
def fit(run, epochs=3):
    for epoch in run.epochs(epochs):
        for batch in run.batches(range(5)):
            time.sleep(0.02)
            run.log(loss=1.0 / run.step)
def panels():
    return [thread.name for thread in threading.enumerate() if thread.name == "trainkit-panels"]
"""


class Kernel:
    """A kernel, and what it says on its public channel."""

    def __init__(self, folder: Path) -> None:
        self.manager = KernelManager(kernel_name="python3")
        root = folder / "root"
        root.mkdir()
        env = {**os.environ, "TRAINKIT_ROOT": str(root), "TRAINKIT_QUEUE": str(folder / "queue")}
        self.manager.start_kernel(env=env)
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def run(self, code: str, *, front_end: bool, until: str = "status") -> list[dict[str, Any]]:
        """Run a cell the way a front end sends it, or the way nbclient does.

        Args:
            code: of the cell.
            front_end: whether the request names its cell, as JupyterLab's do.
            until: the type of the message to wait for; ``status`` is the end of the cell.
        """
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False}
        metadata = {"cellId": "a-cell", "recordTiming": False} if front_end else {}
        request = self.client.session.msg("execute_request", content, metadata=metadata)
        self.client.shell_channel.send(request)
        found = []
        give_up_at = time.monotonic() + 60
        while time.monotonic() < give_up_at:
            message = self.client.get_iopub_msg(timeout=60)
            parent = message["parent_header"].get("msg_id")
            found.append({"type": message["msg_type"], "parent": parent, **message["content"]})
            assert message["msg_type"] != "error", message["content"]["traceback"]
            idle = message["msg_type"] == "status" and message["content"]["execution_state"] == "idle"
            mine = parent == request["header"]["msg_id"]
            if (idle and mine) if until == "status" else (message["msg_type"] == until):
                return found
        raise TimeoutError(f"no {until} within 60 s")

    def say(self, comm_id: str, content: dict[str, Any], *, until: str) -> list[dict[str, Any]]:
        """Say something to a widget, as its page would; return what is heard until a message of a type."""
        data = {"method": "custom", "content": content}
        self.client.shell_channel.send(self.client.session.msg("comm_msg", {"comm_id": comm_id, "data": data}))
        found = []
        while not found or found[-1]["type"] != until:
            message = self.client.get_iopub_msg(timeout=60)
            found.append({"type": message["msg_type"], **message["content"]})
        return found

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    kernel = Kernel(tmp_path_factory.mktemp("kernel"))
    yield kernel
    kernel.close()


pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:zmq", "ignore::ResourceWarning")


def of(messages: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [message for message in messages if message["type"] == kind]


def printed(kernel: Kernel, code: str) -> str:
    return "".join(message["text"] for message in of(kernel.run(code, front_end=True), "stream"))


def test_text_without_a_front_end(kernel: Kernel) -> None:
    """nbclient, nbval and papermill get text that two equal runs share, and no widget."""
    kernel.run(FIT, front_end=False)
    messages = kernel.run("job = tk.submit(fit)\njob", front_end=False)
    (shown,) = of(messages, "display_data")
    assert shown["data"] == {
        "text/plain": "fit: in the background, in a thread\n  epochs=3\n"
        "  job.wait() waits until it has ended; job.state, job.metrics() and job.stop() work meanwhile"
    }
    assert not of(messages, "comm_open")
    (ended,) = of(kernel.run("job.wait()\njob", front_end=False), "display_data")
    assert ended["data"]["text/plain"].startswith("fit: COMPLETED · epoch 3/3 · step 15/15")
    for call in ("tk.dashboard()", "tk.launcher(fit)", "tk.launcher()", "job.panel()"):
        messages = kernel.run(call, front_end=False)
        assert [sorted(each["data"]) for each in of(messages, "display_data")] == [["text/plain"]]
        assert not of(messages, "comm_open")
    assert printed(kernel, "print(panels())") == "[]\n"


def test_a_panel_and_then_a_picture(kernel: Kernel) -> None:
    """A front end gets a live panel; when the job ends, its output becomes HTML and text; the widget goes when a
    page says that it shows it no more."""
    kernel.run(FIT, front_end=True)
    messages = kernel.run("job = tk.submit(fit)\njob", front_end=True, until="update_display_data")
    (shown,) = of(messages, "display_data")
    assert "application/vnd.jupyter.widget-view+json" in shown["data"]
    assert shown["data"]["text/plain"].startswith("fit: in the background")
    (update,) = of(messages, "update_display_data")
    assert update["transient"]["display_id"] == shown["transient"]["display_id"]
    assert sorted(update["data"]) == ["text/html", "text/plain"]
    opened = {message["comm_id"] for message in of(messages, "comm_open")}
    (settle,) = [each["data"]["content"] for each in of(messages, "comm_msg") if "settle" in str(each["data"])]
    assert (settle["model_id"], settle["data"]) == (*opened, update["data"])
    after = kernel.run("time.sleep(0.5); left = panels()", front_end=True)
    assert not of([*messages, *after], "comm_close")
    assert printed(kernel, "print(left)") == "[]\n"
    (again,) = of(kernel.say(settle["model_id"], {"type": "hello"}, until="comm_msg"), "comm_msg")
    assert again["data"]["content"] == settle
    (closed,) = of(kernel.say(settle["model_id"], {"type": "settled"}, until="comm_close"), "comm_close")
    assert {closed["comm_id"]} == opened


def test_updates_come_while_a_cell_is_busy(kernel: Kernel) -> None:
    """The panel moves while the kernel computes, and says no more than four things a second."""
    kernel.run(FIT, front_end=True)
    kernel.run("job = tk.submit(fit, epochs=1000)\njob", front_end=True)
    messages = kernel.run("began = time.time()\nwhile time.time() - began < 2: sum(range(1000))", front_end=True)
    custom = [each for each in of(messages, "comm_msg") if each["data"]["method"] == "custom"]
    assert 3 <= len(custom) <= 11
    steps = [each["data"]["content"].get("card", {}).get("headline") for each in custom]
    assert len(set(steps)) >= 3
    kernel.run("job.stop(); job.wait()", front_end=True)


def test_a_tab_that_was_closed_is_not_fed_for_ever(kernel: Kernel) -> None:
    """When no page has been heard of for long, and the kernel was free to hear one, nothing more is sent."""
    kernel.run(FIT, front_end=True)
    kernel.run("job = tk.submit(fit, epochs=1000)\npanel = job.panel()\npanel", front_end=True)
    busy = "panel._heard_at -= 1000\ntime.sleep(3)\nprint(panels())"
    assert printed(kernel, busy) == "['trainkit-panels']\n", "a kernel that is busy hears nobody"
    give_up_at = time.monotonic() + 20
    while printed(kernel, "print(panels())") != "[]\n":
        assert time.monotonic() < give_up_at
    comes_back = "panel._receive(panel, {'type': 'hello'}, [])\nprint(panels())"
    assert printed(kernel, comes_back) == "['trainkit-panels']\n"
    kernel.run("job.stop(); job.wait(); panel.close()", front_end=True)


LIVE_PLOT = """
import threading, time, warnings, trainkit as tk
import matplotlib.pyplot as plt
from IPython.display import HTML, clear_output, display
go_on, drawn = threading.Event(), threading.Event()
def live(run):
    for epoch in run.epochs(3):
        clear_output(wait=True)
        plt.plot([1, 2, epoch])
        plt.show()
        display(HTML(f"epoch {epoch}"))
        thread = threading.Thread(target=display, args=(f"thread {epoch}",))
        thread.start(), thread.join()
    plt.figure()
    drawn.set()
    go_on.wait(20)
    return plt.get_fignums()
"""


def places(messages: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Return what was displayed in each place that these messages make, as front ends follow it."""
    found: dict[str, list[str]] = {}
    for message in messages:
        place = message.get("transient", {}).get("display_id", "")
        if message["type"] == "display_data" or (message["type"] == "update_display_data" and place in found):
            data = message["data"]
            shown = "picture" if "image/png" in data else data.get("text/html", data.get("text/plain", ""))
            found.setdefault(place, []).append(shown)
    return found  # the panel of an earlier test may become its picture meanwhile: that is not a new place


def test_what_a_job_displays_and_clears_leaves_its_panel_alone(kernel: Kernel) -> None:
    """It comes below the cell that started the job, in places that are taken again; the cell is not cleared."""
    kernel.run(LIVE_PLOT, front_end=True)
    launching = kernel.run("job = tk.submit(live); display('panel'); x = drawn.wait(20)", front_end=True)
    another = kernel.run("plt.plot([1]); plt.gcf().number", front_end=True)
    last = kernel.run("go_on.set(); job.wait(); (job.result(), plt.get_fignums(), job.logs())", front_end=True)
    assert not of(launching + another + last, "clear_output")
    shown = places(launching)
    assert len(shown) == 4, shown
    assert shown.pop("") == ["'panel'"]
    assert list(shown.values()) == [
        ["picture"] * 3,
        [f"epoch {epoch}" for epoch in range(3)],
        [f"'thread {epoch}'" for epoch in range(3)],
    ]
    assert len(of(launching, "display_data")) == 4, "what follows a clear_output is an update in the same place"
    assert places(another) == {"": ["picture"]}, "the figure that the job has open is not shown by another cell"
    assert of(last, "execute_result")[-1]["data"]["text/plain"] == "([1], [], '')"


def test_clear_output_empties_the_places_of_a_job(kernel: Kernel) -> None:
    kernel.run(LIVE_PLOT, front_end=True)
    code = """
def clears(run):
    display("one"); display("two")
    clear_output()
    display("three")
    handle = display("four", display_id=True)
    handle.update("five")
    clear_output(wait=True)
    display("six")
def waits(run):
    display("last picture")
    clear_output(wait=True)
for function in (clears, waits):
    job = tk.submit(function); job.result()
    while job.id in str(threading.enumerate()): time.sleep(0.01)
"""
    shown = places(kernel.run(code, front_end=True))
    assert list(shown.values()) == [
        ["'one'", "", "'three'", "'six'"],
        ["'two'", ""],
        ["'four'", "'five'", ""],
        ["'last picture'"],
    ]


def test_displays_of_a_thread_name_the_cell_that_started_the_job(kernel: Kernel) -> None:
    """Also of threads that the job starts, while another cell runs; and also of a job that a job starts."""
    kernel.run(LIVE_PLOT, front_end=True)
    code = """
def inner(run):
    display("inner")
def fit(run):
    go_on.wait(20)
    thread = threading.Thread(target=display, args=("of a thread",))
    thread.start(), thread.join()
    tk.submit(inner).result()
go_on = threading.Event(); job = tk.submit(fit)
"""
    started = kernel.run(code, front_end=True)
    kernel.client.shell_channel.send(
        kernel.client.session.msg("execute_request", {"code": "go_on.set(); job.result()", "silent": False})
    )
    parents = {}
    while len(parents) < 2:
        message = kernel.client.get_iopub_msg(timeout=60)
        if message["msg_type"] == "display_data":
            parents[message["content"]["data"]["text/plain"]] = message["parent_header"]["msg_id"]
    assert set(parents) == {"'of a thread'", "'inner'"}
    assert set(parents.values()) == {of(started, "execute_input")[0]["parent"]}
