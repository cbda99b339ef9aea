"""However a job ends: the true state and reason, nobody left behind, no abort."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from jupyter_client.manager import KernelManager

import trainkit as tk
from trainkit.errors import JobFailedError, JobInterruptedError
from trainkit.files.locks import is_locked
from trainkit.files.record import Record, Status
from trainkit.files.streams import tail

HERE = Path(__file__).parent
#: Dozens of processes each: what takes seconds here takes minutes on a busy machine.
pytestmark = pytest.mark.timeout(300)
MARK = "TRAINKIT_TEST_MARK"
Eventually = Callable[..., None]

#: What a function does: the state, why it ended, and what its message holds.  In a thread, what takes the process
#: with it is seen from outside only.
ENDINGS = {
    "returns": ("COMPLETED", "epochs", ""),
    "raises": ("FAILED", "exception", "ValueError: odd weights"),
    "exits_with_3": ("FAILED", "exception", "sys.exit(3)"),
    "exits": ("FAILED", "exception", "sys.exit()"),
    "cancels": ("FAILED", "exception", "CancelledError"),
    "ends_a_generator": ("FAILED", "exception", "GeneratorExit"),
    "interrupts": ("INTERRUPTED", "signal", "interrupted"),
    "recurses": ("FAILED", "exception", "RecursionError"),
    "says_too_much": ("FAILED", "exception", "ValueError: xxx"),
    "diverges": ("COMPLETED", "epochs", ""),
    "runs_out_of_address_space": ("FAILED", "exception", "MemoryError"),
}
DEATHS = {
    "leaves_at_once": ("INTERRUPTED", "lost", "exit code 0 and without a word"),
    "leaves_children": ("INTERRUPTED", "lost", "exit code 3 and without a word"),
    "faults": ("INTERRUPTED", "signal", "SIGSEGV"),
    "aborts": ("INTERRUPTED", "signal", "SIGABRT"),
    "kills_itself": ("INTERRUPTED", "signal", "SIGKILL"),
    "is_terminated": ("INTERRUPTED", "signal", "SIGTERM"),
    "is_interrupted": ("INTERRUPTED", "signal", "interrupted"),
    "hangs_up": ("INTERRUPTED", "signal", "SIGHUP"),
}


def wrong(name: str, expected: tuple[str, str, str], record: Record) -> list[str]:
    """What is not true of a record."""
    status, ended_by, message = expected
    found = []
    if record.status != status or record.ended_by != ended_by or message not in record.message:
        found.append(f"{name}: {record.status}, {record.ended_by}, {record.message!r:.200}")
    if len(json.dumps(record.message) + (record.error.traceback if record.error else "")) > 200_000:
        found.append(f"{name}: a record of megabytes")
    return found


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A word in the environment of all processes that a test starts."""
    word = uuid.uuid4().hex
    monkeypatch.setenv(MARK, word)
    yield word
    for process in marked(word):  # a test that fails leaves nobody behind either
        process.kill()


def marked(mark: str) -> list[psutil.Process]:
    """The processes that carry a mark, and are not this one."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                found.append(process)
    return found


def nobody_is_left(mark: str) -> None:
    """Nobody is there a moment after the end: within a second on a quiet machine, which is told."""
    ended_at = time.monotonic()
    while marked(mark) and time.monotonic() < ended_at + 60.0:
        time.sleep(0.02)
    assert marked(mark) == []
    print(f"nobody is left after {time.monotonic() - ended_at:.2f} s")


def host(script: str, **environment: str) -> subprocess.Popen[str]:
    """A fresh interpreter that runs a script, with the functions of ``ends`` at hand."""
    code = (
        # Whoever starts tests in a shell's background has SIGINT ignored, and so have all processes below.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"import sys; sys.path.insert(0, {str(HERE)!r})\nimport ends, os, time, trainkit as tk\n"
    )
    return subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "ignore", "-c", code + textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **environment},
        start_new_session=True,
    )


FEW_ENDINGS = ("exits_with_3", "interrupts", "diverges")
FEW_DEATHS = ("leaves_children", "faults", "is_interrupted")


@pytest.mark.parametrize(
    ("runner", "names"),
    [
        ("thread", tuple(ENDINGS)),
        ("process", FEW_ENDINGS),
        pytest.param("process", tuple(ENDINGS), marks=pytest.mark.long),
    ],
    ids=["thread", "process", "process, all"],
)
def test_the_state_and_its_reason_are_true(root: Path, mark: str, runner: str, names: tuple[str, ...]) -> None:
    """Eleven ways to end that leave the process alive."""
    script = f"""
        for name in {names!r}:
            job = tk.submit(getattr(ends, name), runner={runner!r}, job_id=name)
            if {runner!r} == "thread": job.wait(60)  # they share their limits
        for job in tk.jobs(): job.wait(60)
    """
    out, err = (process := host(script)).communicate(timeout=250)
    assert (process.returncode, out, err) == (0, "", "")
    nobody_is_left(mark)
    found = [fault for name in names for fault in wrong(name, ENDINGS[name], tk.attach(name).record)]
    print(f"{runner}: {len(names)} tried, {len(found)} wrong")
    assert found == []
    nan = tk.attach("diverges")
    assert '"loss":"NaN"' in nan.paths.record.read_text().replace(" ", "")
    assert any("not finite" in event.get("message", "") for event in nan.events())


def test_the_judge_finds_a_runner_that_catches_exceptions_only(tmp_path: Path) -> None:
    """A thread with ``except Exception`` says nothing of what is no Exception, and says COMPLETED of the rest."""
    sys.path.insert(0, str(HERE))
    import ends

    found = []
    for name in ("returns", "raises", "exits_with_3", "exits", "cancels", "interrupts", "ends_a_generator"):
        record = Record(job_id=name, name=name, status=Status.RUNNING)

        def run_naively(name: str = name, record: Record = record) -> None:
            try:
                getattr(ends, name)(None)
            except Exception as error:  # noqa: BLE001 - the known-bad way
                record.status, record.message = Status.FAILED, f"{type(error).__name__}: {error}"
            else:
                record.status = Status.COMPLETED

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(threading, "excepthook", lambda args: None)
            thread = threading.Thread(target=run_naively)
            thread.start()
            thread.join()
        record.ended_by = ENDINGS[name][1]  # type: ignore[assignment]
        found += wrong(name, ENDINGS[name], record)
    print(f"known-bad: 7 tried, {len(found)} wrong")
    assert len(found) == 5


@pytest.mark.parametrize(
    "names", [FEW_DEATHS, pytest.param(tuple(DEATHS), marks=pytest.mark.long)], ids=["few", "all"]
)
def test_a_death_is_told_as_what_it_was(root: Path, mark: str, names: tuple[str, ...]) -> None:
    """Eight ways in which the process of a job ends without asking; nobody of it is left."""
    script = f"""
        jobs = [tk.submit(getattr(ends, name), runner="process", job_id=name) for name in {names!r}]
        for job in jobs: job.wait(60)
    """
    out, err = (process := host(script)).communicate(timeout=250)
    assert (process.returncode, out, err) == (0, "", "")
    nobody_is_left(mark)
    found = [fault for name in names for fault in wrong(name, DEATHS[name], tk.attach(name).record)]
    print(f"process: {len(names)} tried, {len(found)} wrong")
    assert found == []


@pytest.mark.parametrize("name", ["leaves_at_once", "faults", "kills_itself", "is_terminated"])
def test_who_takes_the_notebook_with_it_is_interrupted(root: Path, mark: str, name: str) -> None:
    """A thread that ends its whole process: the job reads INTERRUPTED as soon as that is gone."""
    process = host(f"tk.submit(ends.{name}, job_id='job').wait(60)")
    process.communicate(timeout=250)
    assert (
        process.returncode == {"leaves_at_once": 0, "faults": -11, "kills_itself": -9, "is_terminated": -15}[name]
    )
    assert wrong(name, ("INTERRUPTED", "lost", "its process vanished"), tk.attach("job").record) == []
    nobody_is_left(mark)


@contextlib.contextmanager
def memory_limit(megabytes: int) -> Iterator[Path]:
    """A control group with little memory.

    Raises:
        OSError: none can be made here.
    """
    v1 = Path("/sys/fs/cgroup/memory")
    parent = v1 if v1.is_dir() else Path("/sys/fs/cgroup")
    group = parent / f"trainkit-test-{uuid.uuid4().hex[:8]}"
    group.mkdir()
    try:
        limit = "memory.limit_in_bytes" if v1.is_dir() else "memory.max"
        (group / limit).write_text(str(megabytes << 20))
        yield group
    finally:
        for _ in range(100):
            try:
                group.rmdir()
                break
            except OSError:  # it takes the kernel a moment to notice that the last process is gone
                time.sleep(0.02)


def test_out_of_memory_is_told(root: Path, mark: str) -> None:
    """The kernel kills a job whose container has too little memory, and the record says what may have happened."""
    try:
        limit = memory_limit(60)
        group = limit.__enter__()
    except OSError as error:
        pytest.xfail(f"no control group can be made here: {error}")
    sys.path.insert(0, str(HERE))
    import ends

    with contextlib.ExitStack() as stack:
        stack.push(limit)
        job = tk.submit(ends.runs_out_of_memory, cgroup=str(group), runner="process")
        assert job.wait(60) is Status.INTERRUPTED
    assert wrong("out of memory", ("INTERRUPTED", "signal", "may have run out of memory"), job.record) == []
    nobody_is_left(mark)


def test_what_ends_an_interpreter_does_not_end_the_one_that_asks(root: Path) -> None:
    """result() of a function that called sys.exit raises an error that can be caught, not SystemExit."""
    sys.path.insert(0, str(HERE))
    import ends

    for name in ("exits", "cancels", "ends_a_generator"):
        with pytest.raises(JobFailedError):
            tk.submit(getattr(ends, name)).result(60)
    with pytest.raises(JobInterruptedError):
        tk.submit(ends.interrupts).result(60)


def test_a_thread_that_goes_on_keeps_nobody_waiting(root: Path, tmp_path: Path, eventually: Eventually) -> None:
    """A user's thread outlives the function: the job is over, its place free; and that is told."""
    sys.path.insert(0, str(HERE))
    import ends

    until = tmp_path / "until"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAINKIT_MAX_JOBS", "1")
        job = tk.submit(ends.leaves_a_thread, until=str(until), runner="process")
        assert job.wait(60) is Status.COMPLETED
        assert tk.submit(ends.returns, runner="process").wait(60) is Status.COMPLETED
    assert any("'uploader' running" in event.get("message", "") for event in job.events())
    pid = job.record.pid
    job.delete()
    assert tk.jobs("COMPLETED")[0].id != job.id
    assert pid is not None
    assert psutil.pid_exists(pid), "it goes on all the same"
    until.touch()
    eventually(lambda: not psutil.pid_exists(pid))


# --- the end of the process that launched --------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("sys.exit(5)", 5),
        pytest.param("pass", 0, marks=pytest.mark.long),
        pytest.param("raise ValueError", 1, marks=pytest.mark.long),
    ],
    ids=["exit", "end", "exception"],
)
def test_a_script_waits_for_its_jobs(root: Path, mark: str, ending: str, code: int) -> None:
    """Its own end, however it is, cuts nothing."""
    script = f"""
        tk.submit(ends.steps, count=50, job_id="thread")
        tk.submit(ends.steps, count=50, job_id="process", runner="process")
        {ending}
    """
    process = host(script)
    process.communicate(timeout=250)
    assert process.returncode == code
    assert tk.attach("thread").state is Status.COMPLETED
    assert tk.attach("process").wait(60) is Status.COMPLETED
    nobody_is_left(mark)


def test_a_job_of_a_script_that_has_come_to_its_end_has_all_of_python(root: Path) -> None:
    """It can import torch and start pools, though its main thread has nothing left to do."""
    out, err = (process := host("tk.submit(ends.imports_and_pools, job_id='job')")).communicate(timeout=250)
    assert (process.returncode, out, err) == (0, "", "")
    assert wrong("job", ("COMPLETED", "epochs", ""), tk.attach("job").record) == []


@pytest.mark.parametrize("function", ["steps", "computes_and_is_deaf"])
def test_ctrl_c_at_a_script_that_waits_at_its_end(
    root: Path, mark: str, eventually: Eventually, function: str
) -> None:
    """Saved and told if the job listens; no abort if it does not."""
    script = f"""
        import trainkit.runners.thread
        trainkit.runners.thread.EXIT_GRACE_S = 1.0
        tk.submit(ends.{function}, job_id="job")
    """
    process = host(script)
    eventually(lambda: [job for job in tk.jobs("RUNNING") if job.record.metrics], within_s=60)
    for _ in range(10):  # as people do
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
            break
    _, err = process.communicate(timeout=250)
    assert process.returncode in (0, 1, 130), err
    assert "Abort" not in err
    assert "Ctrl-C again leaves at once" in err
    record = tk.attach("job").record
    told = "the interpreter that ran it was shut down" if function == "steps" else "its process vanished"
    assert wrong(function, ("INTERRUPTED", "lost", told), record) == []
    nobody_is_left(mark)


def test_an_interpreter_that_is_left_does_not_abort(root: Path, mark: str) -> None:
    """A job deep in torch that asks nobody, when somebody leaves a Python prompt."""
    script = """
        import trainkit.runners.thread
        trainkit.runners.thread.EXIT_GRACE_S = 0.5
        sys.ps1 = ">>> "
        job = tk.submit(ends.computes_and_is_deaf, job_id="job")
        while not job.record.metrics: time.sleep(0.01)
        time.sleep(0.2)
    """
    process = host(script)
    _, err = process.communicate(timeout=250)
    assert tk.attach("job").state is Status.INTERRUPTED
    assert (process.returncode, err) == (0, "")
    nobody_is_left(mark)


def test_a_kernel_that_is_interrupted_restarted_and_shut_down(
    root: Path, mark: str, eventually: Eventually
) -> None:
    """Interrupting it touches no job; a restart and a shutdown save what runs in threads, and processes go on."""
    start = f"""
        import sys; sys.path.insert(0, {str(HERE)!r})
        import ends, trainkit as tk
        tk.submit(ends.steps, job_id="thread-%d")
        tk.submit(ends.steps, job_id="process-%d", runner="process")
    """

    def running(*ids: str) -> bool:
        return {job.id for job in tk.jobs("RUNNING") if job.record.step} == set(ids)

    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(env=dict(os.environ), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with contextlib.nullcontext(manager.client()) as client:
        client.start_channels()
        client.wait_for_ready(timeout=60)
        client.execute(textwrap.dedent(start % (1, 1)))
        eventually(lambda: running("thread-1", "process-1"), within_s=100)
        client.execute("time.sleep(60) if 'time' in dir() else __import__('time').sleep(60)")
        manager.interrupt_kernel()
        at = {job.id: job.record.step for job in tk.jobs("RUNNING")}
        eventually(lambda: all(job.record.step > at[job.id] + 5 for job in tk.jobs("RUNNING")))
        assert running("thread-1", "process-1")
        manager.restart_kernel()
        eventually(lambda: running("process-1"))
        told = ("INTERRUPTED", "lost", "the interpreter that ran it was shut down")
        assert wrong("restart", told, tk.attach("thread-1").record) == []
        client.wait_for_ready(timeout=60)
        client.execute(textwrap.dedent(start % (2, 2)))
        eventually(lambda: running("thread-2", "process-1", "process-2"), within_s=100)
        manager.shutdown_kernel()
        client.stop_channels()
    eventually(lambda: running("process-1", "process-2"))
    assert wrong("shutdown", told, tk.attach("thread-2").record) == []
    for job in tk.jobs("RUNNING"):
        job.stop()
        assert job.wait(60) is Status.STOPPED
    nobody_is_left(mark)


# --- stop races the natural end ------------------------------------------------------------------


def races(count: int, *, writes: bool = False) -> list[str]:
    """Stop jobs at about the moment at which they end; return what was wrong with what was seen of each.

    Args:
        count: how many.
        writes: whether who asks also writes what it asked for, the known-bad way.
    """
    sys.path.insert(0, str(HERE))
    import ends

    found = []
    for number in range(count):
        job = tk.submit(ends.steps, count=6, pause_s=0.001, job_id=f"race-{number}")
        seen: list[str] = []
        over = threading.Event()

        def watch(path: Path = job.paths.record, seen: list[str] = seen, over: threading.Event = over) -> None:
            while True:
                ending = over.is_set()
                status = json.loads(path.read_bytes())["status"]
                if seen[-1:] != [status]:
                    seen.append(status)
                if ending:
                    return

        watcher = threading.Thread(target=watch)
        watcher.start()
        time.sleep(0.0005 * (number % 60))
        job.stop()
        if writes:
            record = job.store.read(job.id)
            record.status = Status.STOPPED
            job.store.write_record(record, durable=False)
        state = job.wait(60)
        while is_locked(job.paths.owner_lock):  # its owner still tells of the end, in its events
            time.sleep(0.001)
        over.set()
        watcher.join()
        ends_seen = [status for status in seen if Status(status).terminal]
        told = [line["status"] for line in tail(job.paths.events)[0] if line["event"] == "state"]
        ends_told = [status for status in told if Status(status).terminal]
        if not (ends_seen == ends_told == [state]) or seen[-1] != state or state not in ("COMPLETED", "STOPPED"):
            found.append(f"race {number}: seen {seen}, told {told}, answered {state}")
    print(f"stop races the end: {count} tried, {len(found)} wrong{' (known-bad)' if writes else ''}")
    return found


def test_stop_racing_the_end_leaves_one_end(root: Path) -> None:
    """60 times: one terminal state, which never changes."""
    assert races(60) == []


@pytest.mark.long
@pytest.mark.timeout(900)
def test_stop_racing_the_end_many_times(root: Path) -> None:
    """500 times."""
    assert races(500) == []


def test_the_race_finds_a_stop_that_writes(root: Path) -> None:
    """It fails a stop that writes the record of a job that somebody else owns."""
    assert races(30, writes=True) != []
