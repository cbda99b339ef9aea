"""A long life of notebooks: panels opened and closed, kernels restarted; what is held stays bounded."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

import trainkit as tk
from tests.reliability.test_endings import marked
from tests.reliability.test_long_life import Held, is_bounded
from trainkit.files.record import Status

HERE = Path(__file__).parent
pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:zmq", "ignore::ResourceWarning"),
    pytest.mark.long,
    pytest.mark.timeout(7200),
]

_PANELS = """
import sys, threading
sys.path.insert(0, {here!r})
import trainkit as tk
from IPython.display import display
from test_long_life import growth
from trainkit.runners.waiting import warm_up

warm_up()  # torch loads much of itself at a first step, which is no leak
until = threading.Event()
def waits(run):
    for _ in run.batches(range(10**9)):
        run.log(loss=1.0)
        until.wait(0.05)

job = tk.submit(waits)
while not job.record.step:
    until.wait(0.01)
kept = []

def once():
    for panel in (job.panel(), tk.dashboard()):
        display(panel)
        {end}

before, after = growth({times}, once, within_s=1.0)
job.stop(); job.wait()
print("held", [number for held in (before, after) for number in (held.memory_bytes, held.threads, held.handles)])
"""


class Notebook:
    """A kernel, and what its cells print."""

    def __init__(self) -> None:
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel()
        self.client: BlockingKernelClient = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=120)

    def run(self, code: str) -> str:
        """Run a cell; return what it printed."""
        printed: list[str] = []

        def take(message: dict[str, object]) -> None:
            content = message["content"]
            assert isinstance(content, dict)
            assert message["msg_type"] != "error", "\n".join(content["traceback"])
            if message["msg_type"] == "stream":
                printed.append(str(content["text"]))

        self.client.execute_interactive(code, timeout=7000, output_hook=take)
        return "".join(printed)

    def restart(self) -> None:
        """As the button does."""
        self.manager.restart_kernel()
        self.client.wait_for_ready(timeout=120)


@contextmanager
def notebook() -> Iterator[Notebook]:
    """A kernel, ended at the end."""
    nb = Notebook()
    try:
        yield nb
    finally:
        nb.client.stop_channels()
        nb.manager.shutdown_kernel(now=True)
        nb.manager.cleanup_resources()


def held_by_panels(times: int, end: str) -> tuple[Held, Held]:
    """What a kernel holds after a tenth of that many panels and dashboards, and after all."""
    with notebook() as nb:
        out = nb.run(_PANELS.format(here=str(HERE), times=times, end=end))
    numbers = json.loads(out.split("held ")[1])
    return Held(*numbers[:3]), Held(*numbers[3:])


def test_panels_that_are_closed_leave_nothing_behind(root: Path) -> None:
    """Five hundred monitors and five hundred dashboards of a running job, displayed and closed in a kernel."""
    before, after = held_by_panels(500, "panel.close()")
    fine = is_bounded(before, after, 500)
    print(f"long life, panels: 1000 tried, {0 if fine else 1} wrong; {before} -> {after}")
    assert fine


def test_the_harness_finds_panels_that_stay(root: Path) -> None:
    """Never closed, and kept."""
    before, after = held_by_panels(100, "kept.append((panel, bytearray(200_000)))")
    print(f"long life, panels, known-bad: 200 tried; {before} -> {after}")
    assert not is_bounded(before, after, 100)


def test_restarts_of_a_kernel_leave_nothing_behind(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job in a thread at each of a hundred restarts: saved and told, no process, no ticket, no handle stays."""
    monkeypatch.setenv("TRAINKIT_TEST_MARK", "restarts")
    start = """if True:
        import time, trainkit as tk
        def waits(run):
            for _ in run.batches(range(10**9)):
                run.log(loss=1.0)
                time.sleep(0.01)
        job = tk.submit(waits)
        while not job.record.step: time.sleep(0.01)
    """
    times = int(os.environ.get("RESTARTS", "100"))
    wrong: list[str] = []
    before = None
    with notebook() as nb:
        for number in range(times):
            nb.run(start)
            nb.restart()
            wrong += [f"restart {number}: {job.id} is {job.state}" for job in tk.jobs() if not job.done()]
            if number == max(2, times // 10):
                before = Held.now()
        after, processes = Held.now(), len(marked("restarts"))
        tickets = len(list(Path(os.environ["TRAINKIT_QUEUE"]).glob("*.ticket")))
    give_up_at = time.monotonic() + 60
    while marked("restarts") and time.monotonic() < give_up_at:
        time.sleep(0.05)
    assert before is not None
    states = {str(job.state) for job in tk.jobs()}
    sizes = [path.stat().st_size for path in (root / "artifacts" / "jobs").rglob("*") if path.is_file()]
    print(
        f"long life, restarts: {times} tried, {len(wrong)} wrong; {before} -> {after}; {processes} process(es) "
        f"while the last kernel runs, {len(marked('restarts'))} afterwards; {tickets} ticket(s); "
        f"{sum(sizes) / times / 1000:.0f} kB of files a job"
    )
    assert wrong == []
    assert states == {Status.INTERRUPTED}
    assert is_bounded(before, after, times)
    assert (processes, len(marked("restarts")), tickets) == (1, 0, 0)
