"""How long it takes from the call to the first step: threads, processes, a process that was kept ready."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from frame import Figure, Plan, apart, in_turn, median

#: What a bare script does until its first step is made: the same as :func:`first_step`.
_BARE = """
import time
import torch
weight = torch.zeros(64, 64, requires_grad=True)
optimizer = torch.optim.Adam([weight])
(weight @ torch.ones(64)).sum().backward()
optimizer.step()
print(time.time())
"""


def measure(plan: Plan) -> Iterator[Figure]:
    """Yield the times to the first step, and that of the import."""
    runs = 1 if plan.quick else 20
    threads, bare, fresh, warm, imports, nothing = in_turn(
        plan.repeats,
        lambda: apart(thread_jobs, runs=runs),
        lambda: apart(bare_script),
        lambda: apart(process_job),
        lambda: apart(spare_jobs, runs=1 if plan.quick else 3),
        lambda: apart(import_s, statement="import trainkit"),
        lambda: apart(import_s, statement="pass"),
    )
    returned = [value for run in threads for value in run["returned_ms"]]
    steps = [value for run in threads for value in run["step_ms"]]
    yield Figure("thread: submit returns", "ms", median(returned), len(returned), goal="≤ 5")
    what = "thread: first step after the call, over a bare one"
    yield Figure(what, "ms", median(steps), len(steps), goal="≤ 50")
    script, job = median(bare), median(fresh)
    yield Figure(
        "process: first step after the call", "ms", job, plan.repeats, floor=("bare script, same step", script),
        ratio=job / script, of="× bare script", goal="≤ 1.15", detail={"bare": bare, "fresh": fresh},
    )  # fmt: skip
    spare = [value for run in warm for value in run]
    yield Figure(
        "process, with a worker in reserve: first step after the call", "ms", median(spare), len(spare),
        floor=("bare script, same step", script), ratio=median(spare) / script, of="× bare script",
        note="the reserve was made while the notebook was idle, from the second process job on",
    )  # fmt: skip
    taken = median(imports) - median(nothing)
    floor = ("an interpreter without it", median(nothing))
    yield Figure("import trainkit", "ms", taken, plan.repeats, floor=floor, goal="≤ 50")


def first_step(run: Any) -> float:
    """Make one step; return when it was made, in Unix seconds."""
    import time

    import torch

    weight = torch.zeros(64, 64, requires_grad=True)
    optimizer = torch.optim.Adam([weight])
    for _ in run.epochs(1):
        for batch in run.batches([torch.ones(64)]):
            (weight @ batch).sum().backward()
            optimizer.step()
            run.log(loss=0.5)
    return time.time()


def thread_jobs(runs: int) -> dict[str, list[float]]:
    """Start jobs one after the other, in a process that has made steps before."""
    import trainkit as tk

    tk.submit(first_step).result()
    returned, steps = [], []
    for _ in range(runs):
        began = time.time()
        first_step(_Bare())
        bare_s = time.time() - began
        began = time.time()
        job = tk.submit(first_step)
        returned.append(1e3 * (time.time() - began))
        steps.append(1e3 * (job.result() - began - bare_s))
    return {"returned_ms": returned, "step_ms": steps}


class _Bare:
    """What stands for a run where there is none."""

    def epochs(self, count: int) -> Any:
        return range(count)

    def batches(self, loader: Any) -> Any:
        return loader

    def log(self, **values: Any) -> None:
        pass


def bare_script() -> float:
    """Return the ms from the call to the first step of a plain script."""
    Path("bare.py").write_text(_BARE)
    began = time.time()
    done = subprocess.run([sys.executable, "bare.py"], capture_output=True, text=True, check=True)
    return 1e3 * (float(done.stdout) - began)


def process_job() -> float:
    """Return the ms from the call to the first step of the first process job of a notebook."""
    import trainkit as tk

    tk.Job, tk.submit  # noqa: B018 - a notebook has imported it before
    _import_what_a_notebook_has()
    began = time.time()
    return 1e3 * (tk.submit(first_step, runner="process").result() - began)


def spare_jobs(runs: int) -> list[float]:
    """Return the ms from the call to the first step of later process jobs, each with a worker in reserve."""
    import trainkit as tk
    from trainkit.runners import process, spare

    found = []
    for _ in range(runs):
        assert process.prepare(), "there is no memory for a worker in reserve"
        _wait_until_ready(spare)
        began = time.time()
        found.append(1e3 * (tk.submit(first_step, runner="process").result() - began))
    return found


def _wait_until_ready(spare: Any) -> None:
    """The worker is ready when it has done nothing for a second."""
    import psutil

    supervisor = psutil.Process(spare._spare.supervisor.process.pid)
    spent, quiet_since = -1.0, time.monotonic()
    while time.monotonic() - quiet_since < 1.0:
        now = sum(sum(each.cpu_times()[:2]) for each in [supervisor, *supervisor.children()])
        if now != spent:
            spent, quiet_since = now, time.monotonic()
        time.sleep(0.05)


def _import_what_a_notebook_has() -> None:
    from trainkit.api import launching
    from trainkit.runners import process

    assert launching.submit
    assert process.submit


def import_s(statement: str) -> float:
    """Return the ms that a fresh interpreter takes for a statement: the median of nine."""

    def once() -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", statement], check=True)
        return 1e3 * (time.perf_counter() - began)

    once()
    return median([once() for _ in range(9)])
