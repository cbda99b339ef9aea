"""What travels to another process, and what does not."""

from __future__ import annotations

import io
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import trainkit as tk
from trainkit.errors import JobFailedError, StateError, TaskError
from trainkit.files.record import Record, Status
from trainkit.files.store import Store
from trainkit.runners import process
from trainkit.runners.task import Task, dump_outcome, dump_task, load_task
from trainkit.runners.worker import main


def test_closures_lambdas_and_local_classes_travel_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function takes along what it mentions, even if no module could be imported for it."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # the task brings its own

    class Local:
        value = 3

    offset = 4
    task = Task(lambda run, x: Local.value + offset + x, {"x": 5})
    loaded = load_task(dump_task(task))
    assert loaded.function(None, **loaded.arguments) == 12


def test_a_resume_in_a_thread_leaves_the_notebooks_path_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules are found where the first attempt found them, and the notebook's own imports go as before."""
    task = dump_task(Task(lambda run: 3, {}))
    monkeypatch.setattr(sys, "path", ["/somewhere/else", *sys.path[1:]])
    before = list(sys.path)
    assert load_task(task, own_process=False).function(None) == 3
    assert sys.path == before


@pytest.mark.parametrize("thing", ["lock", "file"])
def test_what_cannot_travel_is_named_and_leaves_nothing(thing: str, root: Path, tmp_path: Path) -> None:
    """A captured lock or an open file is named in the error; no job is left half-made."""
    with open(tmp_path / "f", "w") as file:
        captured: Any = threading.Lock() if thing == "lock" else file

        def fit(run: Any) -> None:
            print(captured)

        with pytest.raises(TaskError, match="its enclosed variable 'captured' is a .*runner='thread'"):
            tk.submit(fit, runner="process")
    assert tk.jobs() == []
    assert list((root / "artifacts" / "jobs").iterdir()) == []


def test_an_argument_that_cannot_travel_is_named(root: Path) -> None:
    """The argument's name is in the message."""

    def fit(run: Any, sink: Any) -> None:
        print(sink)

    with pytest.raises(TaskError, match="argument 'sink' is a .*TextIOWrapper"):
        dump_task(Task(fit, {"sink": io.TextIOWrapper(io.BytesIO())}))


def test_a_large_task_is_warned_about(root: Path) -> None:
    """What a function mentions travels along; above a size the job says so, and runs."""
    ballast = bytes(process.LARGE_TASK_BYTES + 1)
    job = tk.submit(lambda run: len(ballast), runner="process")
    assert job.result(timeout=60) == len(ballast)
    warnings = [event["message"] for event in job.events() if event["event"] == "warning"]
    assert warnings == [
        "the function and all it mentions took 100 MB to send; load large data inside the function instead"
    ]


def test_a_result_that_cannot_be_pickled_is_said(root: Path) -> None:
    """The job completes; a warning says that its result cannot come back, and result() says so too."""

    def fit(run: Any) -> Any:
        import threading

        return threading.Lock()

    job = tk.submit(fit, runner="process")
    assert job.wait(30) is Status.COMPLETED
    warnings = [event["message"] for event in job.events() if event["event"] == "warning"]
    assert "cannot be pickled" in warnings[0]
    with pytest.raises(StateError, match="is not here"):
        job.result()


def test_an_exception_that_cannot_be_pickled_comes_as_text(root: Path) -> None:
    """The text and traceback of any exception arrive, even if its class cannot."""

    def fit(run: Any) -> None:
        import threading

        class OddError(Exception):
            def __init__(self) -> None:
                super().__init__("odd")
                self.lock = threading.Lock()

        raise OddError

    job = tk.submit(fit, runner="process")
    with pytest.raises(JobFailedError, match=r"OddError: odd(.|\n)*raise OddError"):
        job.result(timeout=60)


def test_an_exception_from_another_process_brings_its_traceback(root: Path) -> None:
    """The cause shows where in the training code it was raised."""

    def fit(run: Any) -> None:
        raise KeyError("lost key")

    with pytest.raises(KeyError) as caught:
        tk.submit(fit, runner="process").result(timeout=60)
    assert 'raise KeyError("lost key")' in str(caught.value.__cause__)


def test_outcomes_say_whether_the_function_returned() -> None:
    """None that was returned is not the same as nothing returned."""
    import pickle

    assert pickle.loads(dump_outcome(None, None, returned=True)) == (None, None, True)


def test_a_task_that_cannot_be_loaded_fails_in_words(root: Path) -> None:
    """A worker that cannot load the function says so in the record."""
    store = Store()
    lock = store.create(Record(job_id="x", name="x", status=Status.QUEUED, runner="process"))
    store.paths("x").task.write_bytes(b"not a pickle")
    main([str(root), "x", str(os.dup(lock.fd))])
    lock.close()
    record = tk.attach("x").record
    assert record.status is Status.FAILED
    assert "could not be loaded" in record.message
