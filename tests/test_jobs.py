"""Listing, attaching, showing; what a job changes in its notebook (nothing)."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from IPython.core.formatters import DisplayFormatter
from matplotlib.figure import Figure

import trainkit as tk
from trainkit.api import view
from trainkit.api.history import metrics_frame
from trainkit.errors import (
    JobExistsError,
    JobIdError,
    OptionError,
    RecordError,
    StateError,
    TrainkitError,
    UnknownJobError,
)
from trainkit.files.record import Best, Record, Status, Throughput

Eventually = Callable[..., None]
FORMAT_1 = Path(__file__).parent / "data" / "format_1"


def logs_once(run: Any) -> int:
    run.log(loss=0.125, val_loss=0.25)
    return 1


def test_jobs_are_listed_newest_first_and_by_state(root: Path) -> None:
    """tk.jobs() is a list that shows itself as a table without anything that differs between two runs."""
    for name in ("first", "second"):
        tk.submit(logs_once, name=name, job_id=name).wait(10)
    listed = tk.jobs()
    assert [job.id for job in listed] == ["second", "first"]
    assert repr(listed).splitlines()[1].split() == [
        "second",
        "COMPLETED",
        "100",
        "%",
        "step",
        "1",
        "val_loss",
        "0.25",
        "thread",
    ]
    assert repr(listed) == repr(tk.jobs())
    assert tk.jobs("failed") == []
    assert [job.id for job in tk.jobs(state=Status.COMPLETED)] == ["second", "first"]
    with pytest.raises(StateError, match="'done' is not a state; states: QUEUED"):
        tk.jobs("done")


def test_an_unreadable_record_is_listed_as_such(root: Path) -> None:
    """One damaged file among good ones is named, and harms nothing."""
    tk.submit(logs_once, job_id="good").wait(10)
    (root / "artifacts/jobs/bad.json").write_text('{"job_id": "bad"')
    (root / "artifacts/jobs/not an id.json").write_text("{}")
    (root / "artifacts/jobs/folder.json").mkdir()
    listed = tk.jobs()
    assert [job.id for job in listed] == ["good"]
    assert sorted(listed.unreadable) == ["bad", "folder", "not an id"]
    assert "UNREADABLE" in repr(listed)
    with pytest.raises(RecordError, match="bad.json: not JSON"):
        tk.attach("bad")


def test_attach_takes_ids_and_names_and_the_newest(root: Path) -> None:
    """Without an argument the newest job; an unknown one is named with its nearest."""
    with pytest.raises(UnknownJobError, match="there is no job under"):
        tk.attach()
    a = tk.submit(logs_once, name="alpha", job_id="one")
    b = tk.submit(logs_once, name="beta", job_id="two")
    for job in (a, b):
        job.wait(10)
    assert (tk.attach(), tk.attach("one"), tk.attach("alpha")) == (b, a, a)
    with pytest.raises(UnknownJobError, match="did you mean 'alpha'"):
        tk.attach("alpah")
    with pytest.raises(JobIdError):
        tk.attach("../one")


def test_bad_calls_leave_nothing(root: Path) -> None:
    """Every wrong argument is refused by name before a file is made."""
    with pytest.raises(OptionError, match="'thred' is not known; did you mean 'thread'"):
        tk.submit(logs_once, runner="thred")
    with pytest.raises(OptionError, match="expected a function, got int"):
        tk.submit(3)  # type: ignore[arg-type]
    with pytest.raises(JobIdError):
        tk.submit(logs_once, job_id="a/b")

    def two(run: Any, hidden: int, lr: float = 0.1) -> None: ...

    with pytest.raises(OptionError, match=r"partial gives 8 to the first argument of .*partial\(fit, lr=0.1\)"):
        tk.submit(functools.partial(two, 8))

    def needs(run: Any, x: int) -> None: ...

    with pytest.raises(OptionError, match="missing a required argument: 'x'"):
        tk.submit(needs)
    with pytest.raises(OptionError, match=r"takes no argument; its first one is to take the run: def "):
        tk.submit(lambda: None)
    assert list(root.iterdir()) == []
    tk.submit(logs_once, job_id="taken").wait(10)
    with pytest.raises(JobExistsError, match="'taken'"):
        tk.submit(logs_once, job_id="taken")


def test_the_root_is_an_argument_a_variable_or_the_current_folder(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """root= goes before TRAINKIT_ROOT, and that before the current folder."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert tk.submit(logs_once, root=tmp_path / "told").store.root == tmp_path / "told"
    assert tk.submit(logs_once).store.root == root
    monkeypatch.delenv("TRAINKIT_ROOT")
    job = tk.submit(logs_once)
    assert job.store.root == here
    job.wait(10)


def test_text_has_nothing_that_differs_between_two_runs(root: Path) -> None:
    """repr(job) shows state, place and metrics; the id and times only when asked for."""
    job = tk.submit(logs_once, name="fit", job_id="the-id")
    job.wait(10)
    assert repr(job) == (
        "fit: COMPLETED · step 1\n  loss 0.125  val_loss 0.25\n  best: val_loss 0.25 at step 1\n  runner: thread"
    )
    assert "the-id" in job.summary()
    assert "took" in job.summary()


def test_plot_is_a_figure_with_a_chart_per_metric(root: Path, tmp_path: Path) -> None:
    """Training and validation of one metric share a chart; nothing logged is an empty chart, not an error."""

    def fit(run: Any) -> None:
        for n in range(5):
            run.log(loss=1 / (n + 1), val_loss=1.1 / (n + 1), accuracy=n / 5)

    job = tk.submit(fit)
    job.wait(10)
    figure = job.plot()
    assert isinstance(figure, Figure)
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["loss", "accuracy"]
    assert [line.get_label() for line in figure.axes[0].lines] == ["training", "validation", "best"]
    figure.savefig(tmp_path / "plot.png")
    pictures, _ = DisplayFormatter().format(figure)  # as a notebook does where pyplot was never imported
    assert pictures["image/png"].startswith(b"\x89PNG")
    empty = tk.submit(lambda run: None)
    empty.wait(10)
    assert [axis.get_title(loc="left") for axis in empty.plot().axes] == ["nothing logged yet"]


def test_the_newest_attempt_counts_where_steps_repeat(tmp_path: Path) -> None:
    """A resumed attempt replaces the steps from where it begins, also those that it has not reached yet."""
    lines = [{"attempt": 1, "epoch": 1, "step": step, "time": 0.0, "loss": 1.0} for step in range(1, 7)]
    lines += [{"attempt": 2, "epoch": 1, "step": step, "time": 0.0, "loss": 2.0} for step in (4, 5)]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert metrics_frame(path)["loss"].to_dict() == {1: 1.0, 2: 1.0, 3: 1.0, 4: 2.0, 5: 2.0}


def test_format_1_stays_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job folder that was written by the first release reads as it did then."""
    job = tk.attach("frozen", root=FORMAT_1)
    record = job.record
    assert (record.status, record.name, record.attempt) == ("COMPLETED", "frozen example", 1)
    assert record.best is not None
    assert (record.step, record.best.metric, record.best.value) == (6, "val_loss", 0.5)
    assert record.params == {"lr": 0.1, "epochs": 2}
    frame = job.metrics()
    assert frame["loss"].tolist()[:3] == [1.0, 0.5, 1 / 3]
    assert np.isnan(frame["noise"].iloc[0])
    assert [event["event"] for event in job.events()] == ["state", "warning", "checkpoint", "state"]
    assert job.logs() == "written once, read for ever\n"
    for tail in ("x", -1, 1.5):
        with pytest.raises(OptionError, match=r"logs\(tail=\.\.\.\): expected a whole number >= 0"):
            job.logs(tail=tail)  # type: ignore[arg-type]


def test_what_a_view_offers_fits_the_state() -> None:
    """Buttons by state: nothing to press on a completed job, kill only where there is a process."""
    record = Record(job_id="a", name="a", status=Status.RUNNING, runner="process")
    offered = {}
    for status in Status:
        record.status = status
        offered[str(status)] = [action.name for action in view.actions(record)]
    assert offered == {
        "QUEUED": ["stop"],
        "RUNNING": ["pause", "finish", "stop", "kill"],
        "PAUSED": ["resume", "finish", "stop", "kill"],
        "STOPPING": ["kill"],
        "COMPLETED": [],
        "STOPPED": [],
        "FAILED": [],
        "INTERRUPTED": [],
    }
    record.status, record.runner = Status.RUNNING, "thread"
    assert "kill" not in [action.name for action in view.actions(record)]
    record.status, record.resumable = Status.INTERRUPTED, True
    assert [action.name for action in view.actions(record)] == ["resume"]


def test_the_time_left_is_told_when_it_is_known() -> None:
    """ETA is the steps that are left at the present speed."""
    record = Record(job_id="a", name="a", status=Status.RUNNING, step=20, total_steps=100)
    assert view.eta_s(record) is None
    record.throughput = Throughput(steps_per_s=4.0)
    assert view.eta_s(record) == 20.0
    record.best = Best(metric="loss", value=1.0, step=3)
    assert ("time left", "20 s") in view.view(record, now=0.0).facts
    record.status = Status.COMPLETED
    assert view.eta_s(record) is None


# --- isolation -----------------------------------------------------------------------------------


def test_a_thread_job_changes_nothing_in_its_notebook(root: Path) -> None:
    """Random states, defaults, streams and folder are as before."""

    def fit(run: Any) -> None:
        print("in the log")
        print("in the log too", file=sys.stderr)
        run.log(loss=torch.zeros(()))

    before = (sys.stdout, sys.stderr, os.getcwd(), torch.get_num_threads(), torch.get_default_dtype())
    state = torch.get_rng_state()
    job = tk.submit(fit)
    job.wait(10)
    for thread in threading.enumerate():
        if thread.name == f"trainkit-{job.id}":
            thread.join(5)
    after = (sys.stdout, sys.stderr, os.getcwd(), torch.get_num_threads(), torch.get_default_dtype())
    assert after == before
    assert torch.equal(torch.get_rng_state(), state)
    assert job.logs() == "in the log\nin the log too\n"


def test_two_thread_jobs_print_into_their_own_logs(root: Path) -> None:
    """Output is told apart by thread."""
    barrier = threading.Barrier(2)

    def fit(run: Any, word: str) -> None:
        for _ in range(50):
            barrier.wait(10)
            print(word)

    jobs = [tk.submit(fit, word=word) for word in ("left", "right")]
    for job, word in zip(jobs, ("left", "right"), strict=True):
        job.result(timeout=60)
        assert job.logs() == f"{word}\n" * 50


def run_python(code: str, root: Path) -> subprocess.CompletedProcess[str]:
    """Run a script in a fresh interpreter, warnings shown."""
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "TRAINKIT_ROOT": str(root)},
    )


TRAINS_FOREVER = """
    import sys, time, torch, trainkit as tk
    {prelude}
    def fit(run, steps=10**9):
        model = torch.nn.Linear(200, 200)
        run.track(model=model)
        for _ in run.epochs(1):
            for _ in run.batches(range(steps)):
                model(torch.randn(64, 200)).sum().backward()
                run.log(loss=1.0)
    job = tk.submit(fit, job_id="left", steps={steps})
    while not job.record.step and not job.done(): time.sleep(0.01)
"""


def test_a_script_waits_for_its_jobs(root: Path) -> None:
    """A plain script that ends right after submitting does not lose its training."""
    out = run_python(TRAINS_FOREVER.format(prelude="", steps=300), root)
    assert (out.returncode, out.stderr) == (0, "")
    assert tk.attach("left").state is Status.COMPLETED


def test_an_interactive_interpreter_saves_its_jobs_when_it_ends(root: Path) -> None:
    """A kernel that is shut down saves what it trains, says INTERRUPTED, and does not abort."""
    out = run_python(TRAINS_FOREVER.format(prelude="sys.ps1 = '>>> '", steps=10**9), root)
    assert (out.returncode, out.stderr) == (0, "")
    record = tk.attach("left").record
    assert (record.status, record.ended_by) == ("INTERRUPTED", "lost")
    assert record.resumable
    assert record.checkpoint is not None
    assert record.checkpoint.step == record.step


def test_every_error_is_a_trainkit_error() -> None:
    """One except clause catches all that trainkit raises of its own."""
    from trainkit import errors

    found = [thing for thing in vars(errors).values() if isinstance(thing, type) and issubclass(thing, Exception)]
    assert len(found) > 10
    assert all(issubclass(thing, TrainkitError) for thing in found)
    with warnings.catch_warnings():
        assert isinstance(errors.TableError("x", path="p", line=3), ValueError)


def test_a_small_table_computes_in_one_thread_and_leaves_the_notebook_its_own(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit on threads is that of the job's thread alone, while it trains."""
    from trainkit.tabular.step import Backpropagation

    seen = []
    step = Backpropagation.__call__
    monkeypatch.setattr(
        Backpropagation, "__call__", lambda *args: (seen.append(torch.get_num_threads()), step(*args))[1]
    )
    before = torch.get_num_threads()
    job = tk.train(epochs=1, hidden=8)
    while not job.done():
        assert torch.get_num_threads() == before
    job.result()
    assert set(seen) == {1}
