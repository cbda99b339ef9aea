"""The recipe for Slurm, as its page has it, with submitit's executor for one machine in the place of Slurm."""

from __future__ import annotations

import re
import signal
import socket
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import submitit

import trainkit as tk
from trainkit.files.record import Status

from .learning import furthest, learns
from .places import PROCESS

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(600)]
Eventually = Callable[..., None]
PAGE = Path(__file__).parents[2] / "notebooks" / "slurm.md"


@pytest.fixture
def on_slurm(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The class of the page, as a module beside a notebook; it travels by value."""
    found = re.search(r"<!-- on_slurm.py -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    module = types.ModuleType("__main__")
    exec(compile(found[1], "on_slurm.py", "exec"), module.__dict__)
    return module.__dict__["OnSlurm"]


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[Any]:
    """Starts, warns and requeues on this machine; whatever is left of its jobs is ended."""
    executor = submitit.AutoExecutor(tmp_path / "slurm-logs", cluster="local")
    executor.update_parameters(timeout_min=20)
    before = set(psutil.Process().children(recursive=True))
    yield executor
    for process in set(psutil.Process().children(recursive=True)) - before:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def warn_all(sent: Any) -> None:
    """Do as Slurm does: tell all processes of the job that its time is nearly over."""
    for process in psutil.Process(int(sent.job_id)).children(recursive=True):
        try:
            process.send_signal(signal.SIGUSR2)
        except psutil.NoSuchProcess:
            continue


def test_a_job_is_warned_requeued_goes_on_at_its_next_step_and_ends_by_its_file(
    root: Path, on_slurm: Any, executor: Any, eventually: Eventually
) -> None:
    """The same weights as without; no step twice; and a stop from the notebook ends it for good."""
    whole = PROCESS.submit(learns, epochs=8)
    sent = executor.submit(on_slurm(learns, "sent", str(root), epochs=8, pause_s=0.05))
    eventually(lambda: "sent" in [job.id for job in tk.jobs()], within_s=300)
    job = PROCESS.started(tk.attach("sent"), eventually, step=12)
    warn_all(sent)
    eventually(lambda: job.record.attempt == 2, within_s=300)
    assert job.record.checkpoint is not None
    assert job.record.checkpoint.step == max(
        event["at"][3] for event in job.events() if event["event"] == "ending"
    ), "what was made when it was warned is saved"
    PROCESS.started(job, eventually, step=(job.record.checkpoint.step or 0) + 2)
    job.set(lr=0.05)
    assert job.wait(300) is Status.COMPLETED
    assert sent.result() == "COMPLETED"
    assert whole.wait(300) is Status.COMPLETED
    assert furthest(whole.model(), job.model()) == 0.0
    lines = job.paths.metrics.read_text().splitlines()
    assert len(lines) == job.record.step == len(job.metrics()), "no step was made twice"


@pytest.mark.long
def test_a_stop_from_the_notebook_is_for_good_and_a_machine_that_died_is_not(
    root: Path, on_slurm: Any, executor: Any, eventually: Eventually
) -> None:
    """Two ranks, stopped by their file; sent again, also when nobody can ask who had it, the job goes on."""
    sent = executor.submit(on_slurm(learns, "sent", str(root), epochs=1000, pause_s=0.05, ranks=2))
    eventually(lambda: "sent" in [job.id for job in tk.jobs()], within_s=300)
    job = PROCESS.started(tk.attach("sent"), eventually, step=12)
    job.stop()
    assert job.wait(300) is Status.STOPPED
    assert sent.result() == "STOPPED"
    record = job.store.read("sent")
    saved = record.step
    record.status, record.finished_at, record.ended_by = Status.RUNNING, None, None
    record.host, record.boot_id = f"not-{socket.gethostname()}", "another boot"
    job.store.write_record(record, durable=False)
    job.paths.handle.unlink()
    assert job.state is Status.RUNNING, "nobody can say that it is dead"
    sent = executor.submit(on_slurm(learns, "sent", str(root), epochs=1000, pause_s=0.05, ranks=2))
    eventually(lambda: job.record.attempt == 2, within_s=300)
    PROCESS.started(job, eventually, step=saved + 2)
    job.stop()
    assert sent.result() == "STOPPED"
