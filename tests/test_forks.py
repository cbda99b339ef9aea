"""A child that the training code forks leaves the job to its parent, however it ends."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import trainkit as tk
from trainkit.runners.slots import live_job_ids

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

#: How a child ends, with its exit code.
ENDS = {"return": 0, "exit": 0, "exit 3": 3, "exit text": 1, "raise": 1, "interrupt": 0, "_exit": 0}


def forks(run: Any, how: str) -> tuple[int, list[str]]:
    import warnings

    from torch import nn

    run.track(model=nn.Linear(1, 1))
    run.log(loss=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from Python 3.12, of a fork while threads run
        pid = os.fork()
    if pid == 0:
        run.message("of the child")
        run.warn("of the child")
        run.update_params(how="of the child")
        run.save_now()
        for _ in run.batches(range(3)):
            run.log(child=1.0)
        if how.startswith("exit"):
            raise SystemExit({"exit": None, "exit 3": 3, "exit text": "a reason"}[how])
        if how == "raise":
            raise RuntimeError("in the child")
        if how == "interrupt":
            raise KeyboardInterrupt
        if how == "_exit":
            os._exit(0)
        return -1, []
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    # While the job runs, it has its place in the queue.
    from trainkit.runners.slots import live_job_ids

    return code, live_job_ids()


@pytest.mark.parametrize("runner", ["thread", pytest.param("process", marks=pytest.mark.extended)])
@pytest.mark.parametrize("how", ENDS)
def test_forked_child_changes_nothing_of_the_job(
    root: Path, eventually: Callable[..., None], runner: str, how: str
) -> None:
    job = tk.submit(forks, how=how, runner=runner)
    assert job.result() == (ENDS[how], [job.id])
    assert job.state == "COMPLETED"
    eventually(lambda: job.id not in live_job_ids())
    events = job.events()
    assert [event["status"] for event in events if event["event"] == "state"] == ["RUNNING", "COMPLETED"]
    assert not [event for event in events if event["event"] in ("warning", "checkpoint", "change")]
    assert "child" not in job.metrics()
    assert job.record.params == {"how": how}
    assert job.record.message != "of the child"
    assert ("RuntimeError: in the child" in job.logs()) == (how == "raise")
    assert ("a reason" in job.logs()) == (how == "exit text")


def test_pool_of_a_job_leaves_the_job_to_its_parent(root: Path) -> None:
    def pools(run: Any) -> list[int]:
        import multiprocessing
        import warnings

        def square(x: int) -> int:
            run.warn("of the child")
            run.save_now()
            return x * x

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            context = multiprocessing.get_context("fork")
            queue = context.SimpleQueue()
            child = context.Process(target=lambda: queue.put(square(3)))
            child.start()
        child.join()
        return [queue.get(), child.exitcode]

    job = tk.submit(pools, runner="process")
    assert job.result() == [9, 0]
    assert job.warnings() == []
    assert job.checkpoints() == []
