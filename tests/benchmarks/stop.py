"""How soon a stop is acknowledged, and how soon it has stopped: threads and processes, from within and without."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from frame import Figure, Plan, apart, in_turn, median, quantile

_STEP_S = 0.01


def measure(plan: Plan) -> Iterator[Figure]:
    """Yield what a stop takes, on an idle machine and on one whose cores are busy."""
    stops = 2 if plan.quick else 20
    for load in ("idle", "loaded"):
        for runner in ("thread", "process"):
            told = {"runner": runner, "load": load}
            runs, outside = in_turn(
                max(1, plan.repeats // 2),
                lambda told=told: apart(stopped, stops=stops, **told),
                lambda told=told: apart(from_outside, stops=min(stops, 5), **told),
            )
            acknowledged = [each["acknowledged_s"] for run in runs for each in run]
            steps = [each["steps_after"] for run in runs for each in run]
            what = f"stop of a {runner}, {load}"
            yield Figure(
                f"{what}: acknowledged, median", "s", median(acknowledged), len(acknowledged), goal="≤ 0.1",
                detail={"all": acknowledged},
            )  # fmt: skip
            late = quantile(acknowledged, 0.99)
            yield Figure(f"{what}: acknowledged, 99 %", "s", late, len(acknowledged), goal="≤ 0.3")
            yield Figure(f"{what}: steps begun after that, most", "steps", max(steps), len(steps), goal="≤ 1")
            taken = [value for run in outside for value in run]
            yield Figure(f"{what}: from another process, median", "s", median(taken), len(taken), goal="≤ 0.3")


def goes_on(run: Any) -> None:
    """Make steps of 10 ms for ever."""
    import time

    for _ in run.epochs(1_000_000):
        for _ in run.batches(range(1000)):
            time.sleep(0.01)
            run.log(loss=1.0, at=time.time())


def _busy(load: str) -> list[subprocess.Popen[bytes]]:
    code = "while True: sum(range(10000))"
    count = os.cpu_count() or 1 if load == "loaded" else 0
    return [subprocess.Popen([sys.executable, "-c", code]) for _ in range(count)]


def stopped(runner: str, stops: int, load: str) -> list[dict[str, float]]:
    """Start and stop jobs; return for each how soon it was STOPPING, and how many steps began after that."""
    import trainkit as tk

    others = _busy(load)
    found = []
    try:
        for _ in range(stops):
            job = tk.submit(goes_on, runner=runner)
            _until_it_steps(job)
            began = time.time()
            job.stop()
            acknowledged_s = time.time() - began
            job.wait(20)
            record = job.record
            at = next(each["time"] for each in job.events() if each.get("status") == "STOPPING")
            begun = job.metrics()["at"]
            # A step is logged at its end, a step's time after it began.
            late = int((begun - _STEP_S > at).sum())
            found.append({"acknowledged_s": acknowledged_s, "steps_after": late, "step": record.step})
    finally:
        for each in others:
            each.kill()
            each.wait()
    return found


_OUTSIDE = """
import sys, time
import trainkit as tk
for line in sys.stdin:
    job = tk.attach(line.strip())
    began = time.time()
    job.stop()
    print(time.time() - began, flush=True)
"""


def from_outside(runner: str, stops: int, load: str) -> list[float]:
    """Stop jobs from another process; return how soon each stop was acknowledged there."""
    import trainkit as tk

    others = _busy(load)
    found = []
    try:
        command = [sys.executable, "-c", _OUTSIDE]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdin
            assert other.stdout
            for _ in range(stops):
                job = tk.submit(goes_on, runner=runner)
                _until_it_steps(job)
                other.stdin.write(job.id + "\n")
                other.stdin.flush()
                found.append(float(other.stdout.readline()))
                job.wait(20)
            other.stdin.close()
    finally:
        for each in others:
            each.kill()
            each.wait()
    return found


def _until_it_steps(job: Any) -> None:
    while not job.record.step:
        assert not job.done(), job.record.message
        time.sleep(0.01)
