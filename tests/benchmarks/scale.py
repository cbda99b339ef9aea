"""Whether many jobs and long streams cost more: a list, the dashboard, the monitor, each from little to much."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from frame import Figure, Plan, apart, in_turn, median, peak_mb

JOBS = (10, 100, 1_000, 10_000)
POINTS = (1_000, 100_000, 1_000_000, 10_000_000)


def measure(plan: Plan) -> Iterator[Figure]:
    """Yield the largest, each with its curve."""
    yield from _jobs(plan)
    yield from _points(plan)


def _jobs(plan: Plan) -> Iterator[Figure]:
    counts = JOBS[:2] if plan.quick else JOBS
    found = in_turn(plan.repeats, *(lambda count=count: apart(many_jobs, count=count) for count in counts))
    curve = {
        count: {key: median([run[key] for run in runs]) for key in runs[0]}
        for count, runs in zip(counts, found, strict=True)
    }
    most = counts[-1]
    what = f"{most:,} jobs"

    def of(name: str, title: str, unit: str, goal: str, per: float = 1.0) -> Figure:
        note = "from few to many: " + "  ".join(f"{count:,}: {per * curve[count][name]:.3g}" for count in counts)
        value = per * curve[most][name]
        return Figure(f"{what}: {title}", unit, value, plan.repeats, goal=goal, note=note, detail=curve)

    yield of("list_s", "tk.jobs()", "s", "≤ 0.15")
    yield of("shown_s", "tk.jobs() as text", "s", "")
    yield of("command_s", "the command trainkit jobs, with its interpreter", "s", "")
    yield of("open_s", "the dashboard has all rows", "s", "≤ 1")
    yield of("refresh_s", "a refresh of it while one job writes", "ms", "≤ 5", per=1e3)
    yield of("idle_s", "a refresh of it while nothing happens", "ms", "≤ 5", per=1e3)
    first, last = (curve[count]["list_s"] / count for count in (counts[1] if len(counts) > 2 else counts[0], most))
    yield Figure(
        "cost of a job in the list, at most jobs over that at 100", "µs", 1e6 * last, plan.repeats,
        ratio=last / first, of="× that of few", goal="≤ 1.2",
    )  # fmt: skip


def _points(plan: Plan) -> Iterator[Figure]:
    counts = POINTS[:2] if plan.quick else POINTS
    repeats = min(plan.repeats, 3)
    found = in_turn(repeats, *(lambda count=count: apart(long_stream, count=count) for count in counts))
    curve = {
        count: {key: median([run[key] for run in runs]) for key in runs[0]}
        for count, runs in zip(counts, found, strict=True)
    }
    most = counts[-1]
    for name, title, unit, goal, per in (
        ("open_s", "the monitor has its first picture", "s", "≤ 2", 1.0),
        ("memory_mb", "memory that this takes, all read", "MB", "≤ 300", 1.0),
        ("refresh_s", "a refresh with 100 new points, all read", "ms", "", 1e3),
        ("read_us", "reading a point, by the way", "µs", "", 1.0),
    ):
        told = "  ".join(f"{count:,}: {per * curve[count][name]:.3g}" for count in counts)
        yield Figure(
            f"{most:,} points: {title}", unit, per * curve[most][name], repeats, goal=goal,
            note=f"from few to many: {told}", detail=curve,
        )  # fmt: skip
    few, many = (curve[count]["refresh_s"] for count in (counts[0], most))
    yield Figure(
        f"{most:,} points: a refresh beside one of a short stream", "ms", 1e3 * many, repeats,
        ratio=many / few, of="× short", goal="≤ 1.5",
    )  # fmt: skip


def many_jobs(count: int) -> dict[str, float]:
    """Return what a root with so many ended jobs, and one that lives, costs."""
    import trainkit as tk
    from trainkit.files.store import Store
    from trainkit.panels.catalogue import Catalogue
    from trainkit.panels.dashboard import Dashboard

    root = Path.cwd()
    _make_jobs(root, count - 1)
    live = tk.submit(_lives)
    while not live.record.step:
        time.sleep(0.01)

    def taking(work: Any, times: int = 5, rest_s: float = 0.05) -> float:
        taken = []
        for _ in range(times):
            began = time.perf_counter()
            work()
            taken.append(time.perf_counter() - began)
            time.sleep(rest_s)
        return median(taken)

    found = {"list_s": taking(tk.jobs)}
    found["shown_s"] = taking(lambda: repr(tk.jobs()), 3)
    command = [sys.executable, "-m", "trainkit", "jobs"]
    found["command_s"] = taking(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL), 3)
    began = time.perf_counter()
    board = Dashboard(Store(root))
    rows = board.news()[0][0]["rows"]
    found["open_s"] = time.perf_counter() - began
    assert len(rows) == count
    catalogue = Catalogue(Store(root))
    catalogue.scan()
    changed = 0

    def refresh() -> None:
        nonlocal changed
        changed += len(catalogue.scan()[0])

    time.sleep(0.5)
    # As often as the record of a job is written, so that every look finds the folder changed.
    found["refresh_s"] = taking(refresh, 20, 0.3)
    assert changed, "the job that lives should have been seen"
    live.stop()
    live.wait()
    catalogue.scan()
    time.sleep(0.5)
    found["idle_s"] = taking(refresh, 20)
    return found


def _lives(run: Any) -> None:
    import time

    for _ in run.epochs(1_000_000):
        for _ in run.batches(range(100)):
            time.sleep(0.01)
            run.log(loss=1.0)


def _make_jobs(root: Path, count: int) -> None:
    """Write records of jobs that have ended, as the product would have written them."""
    from trainkit.files.paths import jobs_folder
    from trainkit.files.record import (
        Best,
        CheckpointInfo,
        EndedBy,
        Environment,
        Record,
        Status,
        Throughput,
        encode,
    )

    folder = jobs_folder(root)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        job_id = f"job_{1760323520751 + number}_{number:08x}"
        at = 1760323520.751 + number
        loss = 0.1 + 1e-5 * number
        record = Record(
            job_id=job_id, name="penguins", status=Status.COMPLETED, progress=100.0, epoch=20, epochs=20, step=500,
            total_steps=500, loss=loss, metrics={"loss": loss, "val_loss": 0.2, "val_accuracy": 0.97, "lr": 1e-3},
            best=Best("val_loss", 0.2, 480, 19), runner="thread", device="cpu", created_at=at, started_at=at + 0.1,
            params={"data": "penguins.csv", "target": "species", "lr": 1e-3, "hidden": [64, 64], "seed": number},
            updated_at=at + 5, finished_at=at + 5, ended_by=EndedBy.EPOCHS, pid=123, process_started_at=at,
            checkpoint=CheckpointInfo(f"artifacts/jobs/{job_id}/resume.pt", 500, 20, 12345, "a" * 64, at + 5),
            boot_id="b" * 36, host="here", heartbeat_at=at + 5, resumable=True, throughput=Throughput(123.4),
            environment=Environment("3.11.7", "2.13.0", "0.1.0", "c" * 40),
        )  # fmt: skip
        (folder / job_id).mkdir()
        (folder / f"{job_id}.json").write_bytes(encode(record))


def long_stream(count: int) -> dict[str, float]:
    """Return what the monitor of a job with so many logged points costs."""
    import trainkit as tk
    from trainkit.files.streams import Appender
    from trainkit.panels.feed import JobFeed

    job = tk.submit(_one_step, root=Path.cwd())
    job.result()
    JobFeed(job.store, job.id).full()  # what is imported at first is not the cost of a point
    path = job.paths.metrics
    _write_points(path, count)
    before_mb = _resident_mb()
    began = time.perf_counter()
    opened_before_s = 0.0
    feed = JobFeed(job.store, job.id, ticks=lambda: time.monotonic() + opened_before_s)
    content, _ = feed.full()
    open_s = time.perf_counter() - began
    assert content["series"][0]["count"] > 300
    began = time.process_time()
    while not feed.history.complete:
        feed.next()
    read_us = 1e6 * (time.process_time() - began) / count
    assert float(feed.history.metrics["loss"].y.max()) == 99.0, "the one peak is seen"
    memory_mb = max(peak_mb() - before_mb, 0.0)
    opened_before_s = 10.0  # past the first seconds, in which all is sent with each refresh
    feed.next()
    appender = Appender(path)
    taken = []
    for turn in range(20):
        first = count + 1 + 100 * turn
        line = {"attempt": 1, "epoch": 1, "time": 1.0, "loss": 0.5}
        appender.append({**line, "step": first + n} for n in range(100))
        began = time.perf_counter()
        feed.next()
        taken.append(time.perf_counter() - began)
    return {"open_s": open_s, "memory_mb": memory_mb, "refresh_s": median(taken), "read_us": read_us}


def _one_step(run: Any) -> None:
    run.log(loss=1.0)


def _write_points(path: Path, count: int) -> None:
    """Lines as the recorder writes them; one of them is a peak."""
    line = b'{"attempt":1,"epoch":1,"step":%d,"time":1760323520.751,"loss":0.5%d}\n'
    peak = b'{"attempt":1,"epoch":1,"step":%d,"time":1760323520.751,"loss":99}\n'
    with open(path, "wb") as file:
        for first in range(1, count + 1, 100_000):
            steps = range(first, min(first + 100_000, count + 1))
            lines = [line % (step, step % 997) for step in steps]
            if count // 3 in steps:
                lines[count // 3 - first] = peak % (count // 3)
            file.write(b"".join(lines))


def _resident_mb() -> float:
    import psutil

    return float(psutil.Process().memory_info().rss / 2**20)
