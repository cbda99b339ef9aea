"""A long life in little time: jobs, steps, and a clock that jumps; what a process holds stays bounded."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

import trainkit as tk
from trainkit.files.endings import Ending
from trainkit.files.record import EndedBy, Record, Status
from trainkit.files.recorder import Recorder
from trainkit.files.store import Store


@dataclass(frozen=True)
class Held:
    """What this process holds."""

    memory_bytes: int
    threads: int
    handles: int

    @classmethod
    def now(cls) -> Held:
        """Look."""
        gc.collect()
        me = psutil.Process()
        return cls(me.memory_info().rss, threading.active_count(), me.num_fds())

    def __str__(self) -> str:
        return f"{self.memory_bytes / 2**20:.0f} MB, {self.threads} threads, {self.handles} handles"


def growth(times: int, once: Callable[[], None], *, within_s: float = 60.0) -> tuple[Held, Held]:
    """Do something often; return what is held after a tenth of it, and at the end.

    Args:
        times: how often.
        once: what to do.
        within_s: how long the threads that it starts may take to end after it has returned.
    """
    others = set(threading.enumerate())
    for _ in range(max(10, times // 10)):
        once()
    wait_for_the_end_of_all_but(others, within_s)
    before = Held.now()
    for _ in range(times):
        once()
    wait_for_the_end_of_all_but(others, within_s)
    return before, Held.now()


def wait_for_the_end_of_all_but(others: set[threading.Thread], within_s: float) -> None:
    """Return when only those threads are left, or when they have had their time.

    A job's result is there before its thread has let go of its files.
    """
    give_up_at = time.monotonic() + within_s
    while set(threading.enumerate()) - others and time.monotonic() < give_up_at:
        time.sleep(0.01)


def is_bounded(before: Held, after: Held, times: int) -> bool:
    """Whether nothing has grown with the number of times: up to a kilobyte each, and a few threads and handles."""
    room = 8 * 2**20 + 1024 * times
    return (
        after.memory_bytes - before.memory_bytes < room
        and after.threads <= before.threads + 2
        and after.handles <= before.handles + 2
    )


def job(run: Any) -> int:
    for step in run.epochs(2):
        run.log(loss=1.0 / (step + 1))
        print("step", step)
    return 1


def run_one() -> None:
    assert tk.submit(job).result() == 1


def tell(name: str, times: int, before: Held, after: Held) -> None:
    bounded = is_bounded(before, after, times)
    print(f"long life, {name}: {times} tried, {0 if bounded else 1} wrong; {before} -> {after}")


def check_jobs(times: int) -> None:
    before, after = growth(times, run_one)
    tell("jobs in threads", times, before, after)
    assert is_bounded(before, after, times)


def check_steps(steps: int, store: Store) -> None:
    """Log steps under a clock that goes through a day, with jumps of an hour to and fro."""
    clock = [1.7e9]

    def jumping() -> float:
        clock[0] += 86_400 / max(1, steps // 5_000)
        return clock[0] + (3_600 if int(clock[0]) % 7 == 0 else -3_600 if int(clock[0]) % 11 == 0 else 0)

    lock = store.create(Record(job_id="day", name="day", status=Status.QUEUED, runner="thread"))
    recorder = Recorder(store, store.read("day"), clock=jumping)
    recorder.change(Status.RUNNING, started_at=clock[0])
    before = None
    for step in range(1, steps + 1):
        recorder.metrics.pending.append((step, 1, clock[0], {"loss": 1.0 / step}))
        if step % 5_000 == 0:
            recorder.tick()
            if step == steps // 10:
                before = Held.now()
    after = Held.now()
    recorder.close(Ending(Status.COMPLETED, EndedBy.EPOCHS, ""))
    lock.close()
    paths = store.paths("day")
    with open(paths.metrics, "rb") as metrics:
        written = sum(1 for _ in metrics)
    each = paths.metrics.stat().st_size / steps
    assert before is not None
    print(
        f"long life, a day of steps: {steps} tried, {steps - written} lost; {before} -> {after}; record "
        f"{paths.record.stat().st_size} bytes, events {paths.events.stat().st_size} bytes, {each:.0f} bytes a step"
    )
    assert is_bounded(before, after, 0)
    assert written == steps
    assert paths.record.stat().st_size < 4_000
    assert paths.events.stat().st_size < 10_000
    assert each < 150
    assert store.read("day").status is Status.COMPLETED


def test_jobs_leave_nothing_behind(root: Path) -> None:
    """Forty jobs in threads."""
    check_jobs(40)


def test_a_day_of_steps_under_a_jumping_clock(root: Path) -> None:
    """Fifty thousand steps; the clock goes on a day, and jumps."""
    check_steps(50_000, Store())


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_ten_thousand_jobs_leave_nothing_behind(root: Path) -> None:
    check_jobs(10_000)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_ten_million_steps(root: Path) -> None:
    check_steps(10_000_000, Store())


@pytest.mark.parametrize("what", ["handle", "memory", "thread"])
def test_the_harness_finds_a_leak(what: str, tmp_path: Path) -> None:
    """A handle, a megabyte or a thread that stays, each time."""
    kept: list[Any] = []
    over = threading.Event()

    def leak() -> None:
        if what == "handle":
            kept.append(os.open(tmp_path, os.O_RDONLY))
        elif what == "memory":
            kept.append(os.urandom(1_000_000))
        else:
            kept.append(threading.Thread(target=over.wait, daemon=True))
            kept[-1].start()

    before, after = growth(100, leak, within_s=0.2)
    tell(f"known-bad, a leaked {what}", 100, before, after)
    over.set()
    for each in kept:
        if isinstance(each, int):
            os.close(each)
        elif isinstance(each, threading.Thread):
            each.join()
    assert not is_bounded(before, after, 100)
