"""What a notebook and its jobs print and log, and where it goes."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import trainkit as tk
from trainkit.runners.logging_setup import logging_setup, set_up_logging

#: The last job ends in the middle of a ``print`` of the main thread, between two of its writes.
ENDS_WITHIN_A_PRINT = """
import io, sys, tempfile, threading
from trainkit.training.output import captured

begun, end = threading.Event(), threading.Event()

def job():
    with tempfile.NamedTemporaryFile() as log, captured(log.name):
        begun.set()
        end.wait()

thread = threading.Thread(target=job)

class Notebook(io.StringIO):
    def write(self, text):
        end.set()
        thread.join()
        return super().write(text)

sys.stdout = usual = Notebook()
thread.start()
begun.wait()
assert sys.stdout is not usual
print("a", "b", "c")
assert sys.stdout is usual
sys.stderr.write(usual.getvalue())
"""


def test_a_job_may_end_while_the_notebook_prints() -> None:
    """``print`` of CPython before 3.14 holds no reference to its stream; the kernel must not end by that."""
    done = subprocess.run([sys.executable, "-c", ENDS_WITHIN_A_PRINT], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "a b c\n")


#: Each line is printed in another way, by a thread that works for the job.
WAYS = """
import asyncio, concurrent.futures, logging, multiprocessing.pool, sys, threading, warnings
import trainkit as tk

logging.basicConfig(level=logging.INFO, format="%(message)s")
held, held_stdout = sys.stderr, sys.stdout
shared_pool = concurrent.futures.ThreadPoolExecutor(1)
shared_pool.submit(print, "notebook: pool").result()

class Subclass(threading.Thread):
    def run(self):
        print("job: subclass of Thread")

def starts_another():
    in_thread(threading.Thread(target=print, args=("job: thread of a thread",)))

def raises():
    raise ValueError("job: of a thread")

async def coroutine():
    print("job: coroutine")
    await asyncio.to_thread(print, "job: to_thread")

def fit(run):
    print("job: print")
    print("job: stderr", file=sys.stderr)
    print("job: a stream held before", file=held)
    held_stdout.writelines(["job: writelines\\n"])
    logging.info("job: logging")
    logging.getLogger("a.b").warning("job: a logger")
    warnings.warn("job: a warning")
    for thread in (
        threading.Thread(target=print, args=("job: Thread",)),
        threading.Thread(target=logging.info, args=("job: logging in a thread",)),
        threading.Thread(target=starts_another),
        threading.Timer(0, print, ("job: Timer",)),
        Subclass(),
        threading.Thread(target=raises),
    ):
        in_thread(thread)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(print, ["job: pool", "job: pool, too"]))
    shared_pool.submit(print, "job: shared pool").result()
    with multiprocessing.pool.ThreadPool(1) as pool:
        pool.map(print, ["job: ThreadPool"])
    asyncio.run(coroutine())
    begun.set()
    go_on.wait(20)

def in_thread(thread):
    thread.start()
    thread.join()

begun, go_on = threading.Event(), threading.Event()
before = (sys.stdout, sys.stderr, threading.Thread.start, concurrent.futures.ThreadPoolExecutor.submit)
job = tk.submit(fit)
begun.wait(20)
print("notebook: print")
logging.info("notebook: logging")
in_thread(threading.Thread(target=print, args=("notebook: Thread",)))
shared_pool.submit(print, "notebook: shared pool").result()
go_on.set()
job.wait(20)
for thread in threading.enumerate():
    if thread.name == f"trainkit-{job.id}":
        thread.join()
print("notebook: after the job", file=held)
after = (sys.stdout, sys.stderr, threading.Thread.start, concurrent.futures.ThreadPoolExecutor.submit)
assert after == before and "write" not in vars(sys.stdout)
assert all(vars(stream).get(name) is None for stream in (held, held_stdout) for name in ("write", "flush"))
"""


def test_what_threads_of_a_job_print_and_log_is_in_its_log(root: Path) -> None:
    """Each line is where it belongs, once; the notebook's own lines stay where they were."""
    done = subprocess.run([sys.executable, "-c", WAYS], capture_output=True, text=True, timeout=120, cwd=root)
    assert done.returncode == 0, done.stderr
    of_the_job = tk.attach(root=root).logs().splitlines()
    expected = re.findall(r'"(job: [^"\\]+)', WAYS)
    assert len(expected) == 19
    for line in expected:
        matches = [printed for printed in of_the_job if printed.endswith(line)]
        assert len(matches) == 1, (line, of_the_job)
    assert "notebook" not in "".join(of_the_job)
    shown = done.stdout + done.stderr
    for line in re.findall(r'"(notebook: [^"]+)"', WAYS):
        assert shown.count(line + "\n") == 1, (line, shown)
    assert "job:" not in shown


def test_threads_that_outlive_their_job_print_as_without_it(root: Path) -> None:
    """Their text does not get lost in a closed file, and the log of a job that has ended does not grow."""
    go_on, threads = threading.Event(), []

    failed: list[Exception] = []

    def prints_later() -> None:
        go_on.wait(20)
        try:
            print("later")
            sys.stdout.flush()
        except Exception as error:  # noqa: BLE001 - what it is, the test says
            failed.append(error)

    def fit(run: Any) -> None:
        print("begun")
        threads.append(threading.Thread(target=prints_later))
        threads[0].start()

    job = tk.submit(fit)
    job.wait(20)
    for thread in threading.enumerate():
        if thread.name == f"trainkit-{job.id}":
            thread.join(20)
    go_on.set()
    threads[0].join(20)
    assert (job.logs(), failed) == ("begun\n", [])


def test_a_thread_that_cannot_start_is_as_it_was(root: Path) -> None:
    """Starting a thread again is an error in a job too, and leaves nothing at the thread."""

    def fit(run: Any) -> list[str]:
        thread = threading.Thread(target=print, args=("once",))
        thread.start()
        thread.join()
        with pytest.raises(RuntimeError, match="only be started once"):
            thread.start()
        return [name for name in vars(thread) if name == "run"]

    job = tk.submit(fit)
    assert job.result(timeout=20) == []
    assert job.logs() == "once\n"


def test_a_run_method_of_the_thread_object_itself_stays(root: Path) -> None:
    """Threads may have a method of their own instead of a target; starting them does not take it away."""

    def fit(run: Any) -> bool:
        thread = threading.Thread()
        thread.run = own = lambda: print("own")  # type: ignore[method-assign]
        thread.start()
        thread.join()
        with pytest.raises(RuntimeError, match="only be started once"):
            thread.start()
        return thread.run is own

    job = tk.submit(fit)
    assert job.result(timeout=20) is True
    assert job.logs() == "own\n"


LOGS = """
import logging, sys
import trainkit as tk

handler = logging.StreamHandler()
handler.setFormatter(logging.Formatter("{levelname}: {message}", style="{"))
handler.setLevel(logging.DEBUG)
logging.getLogger().addHandler(handler)
logging.getLogger().setLevel(logging.INFO)
logging.getLogger("quiet").setLevel(logging.ERROR)

def fit(run):
    logging.info("root")
    logging.debug("too fine")
    logging.getLogger("loud").info("a logger")
    logging.getLogger("quiet").warning("not shown")

for runner in ("thread", "process"):
    print(tk.submit(fit, runner=runner).id)
    tk.attach().wait(60)
"""


def test_the_notebooks_logging_setup_counts_for_its_jobs(root: Path) -> None:
    """In both runners: level, format, and the levels of loggers; each record once."""
    done = subprocess.run([sys.executable, "-c", LOGS], capture_output=True, text=True, timeout=120, cwd=root)
    ids = done.stdout.split()
    assert len(ids) == 2, done.stderr
    for job_id in ids:
        assert tk.attach(job_id).logs() == "INFO: root\nINFO: a logger\n"


def test_logging_to_a_file_or_not_at_all_is_not_carried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.RootLogger(logging.INFO)
    monkeypatch.setattr(root, "manager", logging.getLogger().manager, raising=False)
    monkeypatch.setattr(logging, "getLogger", lambda name=None: root)
    assert logging_setup() is None
    handler = logging.FileHandler(tmp_path / "a.log")
    root.addHandler(handler)
    assert logging_setup() is None
    handler.close()
    root.handlers = [logging.StreamHandler()]
    setup = logging_setup()
    assert setup is not None
    assert setup["level"] == logging.INFO
    set_up_logging(setup)
    assert len(root.handlers) == 1, "a process that logs already is left as it is"
