"""The worker in reserve: as good as a fresh one, and gone when nobody can need it."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from jupyter_client.manager import KernelManager

import trainkit as tk
from trainkit.runners import process, spare

Eventually = Callable[..., None]


@pytest.fixture(autouse=True)
def _no_spare_is_left() -> Iterator[None]:
    yield
    spare.discard()


def make() -> list[int]:
    """Have a spare; the pids of its supervisor and its worker."""
    assert spare.allowed(), "no memory for a spare here; these tests need 1.5 GB free of 3.5 GB"
    assert process.prepare()
    assert spare._spare is not None
    supervisor = psutil.Process(spare._spare.supervisor.process.pid)
    while not (workers := supervisor.children()):
        assert supervisor.is_running()
    return [supervisor.pid, workers[0].pid]


def gone(processes: list[int]) -> bool:
    """Whether none of them runs any more."""

    def runs(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return not any(map(runs, processes))


def reports() -> Callable[..., Any]:
    """A function that tells what its process is like."""

    def report(run: Any, with_torch: bool = False) -> dict[str, Any]:
        import os
        import resource
        import sys

        print("said in the job")
        told: list[Any] = []
        if with_torch:
            import torch

            torch.optim.Adam([torch.zeros(1, requires_grad=True)]).step()
            told = [torch.get_num_threads(), str(torch.get_default_dtype()), torch.is_grad_enabled()]
        modules = [name for name in ("pandas", "IPython") if name in sys.modules]
        return {
            "pid": os.getpid(),
            "torch": told,
            "folder": os.getcwd(),
            "path": sys.path,
            "environment": {name: value for name, value in os.environ.items() if name != "TRAINKIT_TASK_FILE"},
            "umask": os.umask(0o022),
            "niceness": os.getpriority(os.PRIO_PROCESS, 0),
            "files": resource.getrlimit(resource.RLIMIT_NOFILE),
            "modules": modules,
            "leads its session": os.getsid(0) == os.getpid(),
            "stdin": os.readlink("/proc/self/fd/0") if os.path.exists("/proc") else None,
        }

    return report


def test_a_job_in_the_spare_is_like_one_in_a_fresh_process(root: Path) -> None:
    """The same environment, folder and import path; owned, logged and told in the same way."""
    made = make()
    inside = tk.submit(reports(), runner="process", with_torch=True)
    found = inside.result(timeout=60)
    handle = inside.store.handle(inside.id)
    assert handle is not None
    assert [each.pid for each in handle.processes] == made
    assert found.pop("pid") == made[1]
    fresh = tk.submit(reports(), runner="process", with_torch=True).result(timeout=60)
    assert fresh.pop("pid") not in made
    assert found == fresh
    assert inside.logs() == "said in the job\n"


def test_it_holds_no_file_of_any_job(root: Path) -> None:
    """A job that runs when a spare is made is not kept alive by it."""

    def waits(run: Any) -> None:
        import time

        while True:
            time.sleep(0.01)
            run.log(loss=1.0)

    job = tk.submit(waits, runner="thread")
    opened = [each.path for pid in make() for each in psutil.Process(pid).open_files()]
    assert [path for path in opened if str(root.parent) in path] == []
    job.stop()
    job.wait(60)


@contextlib.contextmanager
def changed(change: str) -> Iterator[None]:
    """Change what a process passes on to its children, for as long as that can be undone."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    umask = os.umask(0o027) if change == "umask" else None
    if change == "limit":
        resource.setrlimit(resource.RLIMIT_NOFILE, (777, before[1]))
    if change == "niceness":
        os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) + 1)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        if umask is not None:
            os.umask(umask)


def test_circumstances_are_all_that_a_process_passes_on(root: Path) -> None:
    before = spare._circumstances({})
    assert spare._circumstances({}) == before
    for change in ("umask", "limit"):
        with changed(change):
            assert spare._circumstances({}) != before
    assert spare._circumstances({}) == before


def test_umask_is_found_where_proc_is_missing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: Path) -> str:
        raise FileNotFoundError(path)

    with changed("umask"):
        assert spare._umask() == 0o027
        monkeypatch.setattr(Path, "read_text", missing)
        assert spare._umask() == 0o027


TOKENS = ["JUPYTER_TOKEN", "JUPYTERHUB_API_TOKEN", "JPY_API_TOKEN", "JPY_SESSION_NAME", "TRAINKIT_JOB_KEY"]


def test_tokens_of_a_server_do_not_reach_jobs(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TOKENS:
        monkeypatch.setenv(name, "j:secret")
    monkeypatch.setenv("MY_TOKEN", "mine")
    found = tk.submit(reports(), runner="process").result(timeout=60)["environment"]
    assert "j:secret" not in found.values()
    assert found["MY_TOKEN"] == "mine"


@pytest.mark.parametrize(
    "change",
    [
        "environment",
        *(
            pytest.param(each, marks=pytest.mark.extended)
            for each in ("folder", "path", "umask", "limit", "niceness")
        ),
    ],
)
def test_it_is_not_used_where_a_fresh_process_would_differ(
    root: Path, change: str, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    """What has changed since it was made is in the job; the spare ends."""
    made = make()
    if change == "environment":
        monkeypatch.setenv("TRAINKIT_TEST_COLOUR", "blue")
    elif change == "folder":
        monkeypatch.chdir(root)
    elif change == "path":
        monkeypatch.syspath_prepend(str(root))
    with changed(change):
        found = tk.submit(reports(), runner="process").result(timeout=60)
    assert found["pid"] not in made
    assert change != "umask" or found["umask"] == 0o027
    assert change != "limit" or found["files"][0] == 777
    assert change != "niceness" or found["niceness"] == os.getpriority(os.PRIO_PROCESS, 0)
    assert change != "environment" or found["environment"]["TRAINKIT_TEST_COLOUR"] == "blue"
    eventually(lambda: gone(made))


@pytest.mark.parametrize(
    "victim",
    ["worker", *(pytest.param(each, marks=pytest.mark.extended) for each in ("supervisor", "stopped supervisor"))],
)
def test_a_spare_that_has_died_is_no_loss(root: Path, victim: str, eventually: Eventually) -> None:
    """The job runs in another process, and what is left of the spare ends too."""
    made = make()
    number = signal.SIGSTOP if victim == "stopped supervisor" else signal.SIGKILL
    os.kill(made[victim == "worker"], number)
    found = tk.submit(reports(), runner="process").result(timeout=60)
    assert found["pid"] != made[1]
    if victim == "stopped supervisor":
        os.kill(made[0], signal.SIGCONT)
    eventually(lambda: gone(made))


@pytest.mark.parametrize("ending", ["exit", "sigkill", "fork"])
def test_it_ends_with_its_notebook(root: Path, ending: str, eventually: Eventually) -> None:
    """Whether its notebook exits, is killed, or leaves a forked child behind: nobody stays."""
    script = f"""
        import os, sys, time, psutil
        from trainkit.runners import process, spare
        assert process.prepare()
        me = spare._spare.supervisor.process.pid
        while not psutil.Process(me).children():
            pass
        child = 0
        if {ending!r} == "fork":
            child = os.fork()
            if child == 0:
                time.sleep(600)
        print(me, psutil.Process(me).children()[0].pid, child, flush=True)
        if {ending!r} != "exit":
            time.sleep(600)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True
    ) as notebook:
        assert notebook.stdout is not None
        supervisor, worker, child = map(int, notebook.stdout.readline().split())
        if ending != "exit":
            notebook.kill()
        eventually(lambda: gone([supervisor, worker]))
        if child:
            os.kill(child, signal.SIGKILL)


def test_it_can_be_done_without(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Switched off, or where memory is short, there is none."""
    monkeypatch.setenv(spare.SPARE_VARIABLE, "0")
    assert not process.prepare()
    monkeypatch.delenv(spare.SPARE_VARIABLE)
    monkeypatch.setattr(spare, "_container_memory", lambda: (2e9, 1e8))
    assert not process.prepare()
    assert spare._spare is None


def test_a_script_makes_none(root: Path) -> None:
    """Only a notebook has idle moments."""
    tk.submit(reports(), runner="process").result(timeout=60)
    assert spare._spare is None
    assert spare._timer is None


def test_jobs_that_must_wait_leave_it_alone(
    root: Path, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    """A job that cannot start yet does not take the spare, and a worker is not started for it either."""
    monkeypatch.setenv("TRAINKIT_MAX_JOBS", "1")
    kept = make()

    def waits(run: Any) -> None:
        import time

        while True:
            time.sleep(0.01)
            run.log(loss=1.0)

    first = tk.submit(waits)
    second = tk.submit(reports(), runner="process")
    eventually(lambda: "waits (" in second.record.message)
    handle = second.store.handle(second.id)
    assert handle is not None
    assert len(handle.processes) == 1
    first.stop()
    assert second.result(timeout=60)["pid"] not in kept
    assert not gone(kept)


_FIRST_CELL = """
import trainkit as tk
from trainkit.runners import spare
spare.IDLE_S = 0.3
def pid(run):
    import os
    return os.getpid()
job = tk.submit(pid, runner="process")
first = job.result(timeout=60)
"""


def test_a_notebook_has_one_after_its_first_process_job_once_it_is_idle(
    root: Path, eventually: Eventually
) -> None:
    """It is made when no cell has run for a moment, serves the next job, and ends with the kernel."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)

        def cell(code: str) -> str:
            said: list[str] = []
            hook = lambda message: said.append(message["content"].get("text", ""))  # noqa: E731
            assert client.execute_interactive(code, timeout=60, output_hook=hook)["content"]["status"] == "ok"
            return "".join(said)

        def spares() -> list[psutil.Process]:
            found = []
            for each in psutil.Process(manager.provisioner.pid).children():
                with contextlib.suppress(psutil.NoSuchProcess):  # the one before it, which has just ended
                    if "spare" in each.cmdline() and each.children():
                        found.append(each)
            return found

        cell(_FIRST_CELL)
        eventually(spares)
        (supervisor,) = spares()
        worker = supervisor.children()[0]
        assert int(cell("print(tk.submit(pid, runner='process').result(timeout=60))")) == worker.pid
        eventually(lambda: [each for each in spares() if each.pid != supervisor.pid])
        (second,) = (each for each in spares() if each.pid != supervisor.pid)
        left = [second.pid, second.children()[0].pid]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    eventually(lambda: gone(left))
