"""What the process runner promises besides: it outlives its notebook, and leaves nobody behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

import trainkit as tk
from trainkit.files.owners import is_running
from trainkit.files.record import Status
from trainkit.runners import openmp

Eventually = Callable[..., None]


def test_it_outlives_the_interrupt_and_the_death_of_its_notebook(root: Path, eventually: Eventually) -> None:
    """Ctrl-C and SIGKILL to the notebook's whole process group do not reach the job."""
    script = """
        import time, trainkit as tk
        def fit(run):
            import time
            while True:
                time.sleep(0.002)
                run.log(loss=1.0)
        job = tk.submit(fit, runner="process", job_id="survivor")
        time.sleep(600)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], start_new_session=True, stderr=subprocess.DEVNULL
    ) as notebook:
        eventually(lambda: [job.id for job in tk.jobs("running") if job.record.step] == ["survivor"])
        os.killpg(notebook.pid, signal.SIGINT)
        os.killpg(notebook.pid, signal.SIGKILL)
    job = tk.attach("survivor")
    at = job.record.step
    eventually(lambda: job.record.step > at)
    assert job.state is Status.RUNNING
    handle = job.store.handle(job.id)
    assert handle is not None
    assert [is_running(each) for each in handle.processes] == [True, True], "supervisor and worker"
    job.stop()
    assert job.wait(60) is Status.STOPPED


@pytest.mark.parametrize("ending", ["kill", "sigkill", "exit"])
def test_no_process_is_left_behind(root: Path, eventually: Eventually, ending: str) -> None:
    """Whatever a job started, in its own session too, is gone when the job is: killed, dead, or ended early."""

    def fit(run: Any, note: str, leaves: bool) -> None:
        import json
        import os
        import subprocess
        import sys
        import time
        from pathlib import Path

        sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
        children = [subprocess.Popen(sleep), subprocess.Popen(sleep, start_new_session=True)]
        Path(note).with_suffix(".tmp").write_text(json.dumps([child.pid for child in children]))
        os.replace(Path(note).with_suffix(".tmp"), note)
        if leaves:
            os._exit(3)
        while True:
            time.sleep(0.01)

    note = root / "children.json"
    job = tk.submit(fit, runner="process", note=str(note), leaves=ending == "exit")
    eventually(note.exists)
    children = [psutil.Process(pid) for pid in json.loads(note.read_text()) if psutil.pid_exists(pid)]
    if ending == "kill":
        assert job.kill() is Status.STOPPED
    elif ending == "sigkill":
        pid = job.record.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    assert job.wait(60) is (Status.STOPPED if ending == "kill" else Status.INTERRUPTED)
    over_at = time.monotonic()
    eventually(lambda: not any(is_alive(child) for child in children))
    print(f"nobody is left after {time.monotonic() - over_at:.2f} s")
    if ending == "exit":
        assert job.record.message == "its process ended with exit code 3 and without a word"
        assert job.record.ended_by == "lost"
    if ending == "sigkill":
        assert job.record.ended_by == "signal"
        assert job.record.error is not None
        assert job.record.error.type == "SIGKILL"


def is_alive(child: psutil.Process) -> bool:
    """Whether a process still runs; a zombie does not."""
    try:
        return child.is_running() and child.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_killed_supervisor_does_not_end_the_training(root: Path, eventually: Eventually) -> None:
    """The worker goes on, still owned, and ends truthfully by itself."""

    def fit(run: Any) -> int:
        import time

        for _ in run.epochs(1):
            for _ in run.batches(range(150)):
                time.sleep(0.01)
                run.log(loss=1.0)
        return 5

    job = tk.submit(fit, runner="process")
    eventually(lambda: job.record.step > 0)
    handle = job.store.handle(job.id)
    assert handle is not None
    os.kill(handle.processes[0].pid, signal.SIGKILL)
    at = job.record.step
    eventually(lambda: job.record.step > at + 5)
    assert job.state is Status.RUNNING
    assert job.result(timeout=60) == 5


def test_a_segmentation_fault_is_told(root: Path) -> None:
    """The signal that ended the process is in the record."""

    def fit(run: Any) -> None:
        import os
        import signal

        os.kill(os.getpid(), signal.SIGSEGV)

    job = tk.submit(fit, runner="process")
    assert job.wait(60) is Status.INTERRUPTED
    assert "SIGSEGV" in job.record.message


def test_a_job_of_a_machine_that_is_gone_goes_on_when_a_person_says_so(root: Path, eventually: Eventually) -> None:
    """What nobody can tell from here is not guessed; and nobody's word counts against an owner that lives."""

    def fit(run: Any) -> int:
        import time

        import torch

        run.track(model=torch.nn.Linear(1, 1))
        for _ in run.batches(range(2000)):
            time.sleep(0.0005)
            run.log(loss=1.0)
        return int(run.step)

    job = tk.submit(fit, runner="process")
    eventually(lambda: job.record.step > 2)
    assert job.resume(lost=True) is Status.RUNNING
    assert job.record.attempt == 1, "it lives"
    job.stop()
    assert job.wait(60) is Status.STOPPED
    record = job.store.read(job.id)
    eventually(lambda: job.store.is_owned(record) is False)  # its process is gone, too
    record.status, record.finished_at, record.ended_by = Status.RUNNING, None, None
    record.host, record.boot_id = "elsewhere", "another boot"
    job.store.write_record(record, durable=False)
    job.paths.handle.unlink()
    assert job.resume() is Status.RUNNING
    assert job.record.attempt == 1, "it may live, for all that can be seen from here"
    job.resume(lost=True)
    assert job.result(timeout=60) == 2000
    assert job.record.attempt == 2


@pytest.mark.extended
@pytest.mark.parametrize("runner", ["thread", "process"])
@pytest.mark.parametrize(
    ("chosen", "spins"),
    [({}, "500"), ({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "30000000000")],
    ids=["nothing", "spins", "policy"],
)
def test_threads_of_a_step_wait_for_each_other_briefly(
    root: Path, runner: str, chosen: dict[str, str], spins: str
) -> None:
    """As torch's OpenMP itself says, which reads it when torch is imported; what the user chose stays."""
    script = f"""
        import trainkit as tk
        def fit(run):
            import torch
        job = tk.submit(fit, runner={runner!r}, job_id="brief")
        job.result()
    """
    environment = {name: value for name, value in os.environ.items() if name not in openmp.CHOICES}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**environment, **chosen, "OMP_DISPLAY_ENV": "VERBOSE"},
        capture_output=True,
        text=True,
        check=True,
    )
    said = done.stderr + tk.attach("brief").paths.output.read_text()
    assert re.findall(r"GOMP_SPINCOUNT = '(\w+)'", said) == [spins]
