"""Functions that end in every way, for jobs to run."""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any


def returns(run: Any) -> int:
    return 7


def raises(run: Any) -> None:
    raise ValueError("odd weights")


def exits_with_3(run: Any) -> None:
    sys.exit(3)


def exits(run: Any) -> None:
    sys.exit()


def cancels(run: Any) -> None:
    raise asyncio.CancelledError


def ends_a_generator(run: Any) -> None:
    raise GeneratorExit


def interrupts(run: Any) -> None:
    raise KeyboardInterrupt


def recurses(run: Any) -> None:
    recurses(run)


def says_too_much(run: Any) -> None:
    raise ValueError("x" * 30_000_000)


def diverges(run: Any) -> None:
    for step in range(3):
        run.log(loss=float("nan") if step else 1.0)


def runs_out_of_address_space(run: Any) -> None:
    """``ulimit -v``, and more than that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 200_000_000, hard))
    try:
        kept = []
        while True:
            kept.append(bytearray(10_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def runs_out_of_memory(run: Any, cgroup: str) -> None:
    """A container's limit of memory, and more than that: the kernel kills."""
    Path(cgroup, "cgroup.procs").write_text(str(os.getpid()))
    kept = []
    while True:
        kept.append(bytearray(os.urandom(1_000_000)))


def leaves_at_once(run: Any) -> None:
    os._exit(0)


def faults(run: Any) -> None:
    ctypes.string_at(0)


def aborts(run: Any) -> None:
    os.abort()


def kills_itself(run: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def is_terminated(run: Any) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)


def is_interrupted(run: Any) -> None:
    """Ctrl-C reaches its process."""
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)


def hangs_up(run: Any) -> None:
    os.kill(os.getpid(), signal.SIGHUP)
    time.sleep(60)


def leaves_children(run: Any) -> None:
    """And dies itself, so that nobody waits for them."""
    import subprocess

    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    subprocess.Popen(sleep)
    subprocess.Popen(sleep, start_new_session=True)
    os._exit(3)


def leaves_a_thread(run: Any, until: str) -> int:
    """A thread of the user's that goes on after the function has returned."""

    def go_on() -> None:
        while not os.path.exists(until):
            time.sleep(0.02)

    threading.Thread(target=go_on, name="uploader").start()
    return 7


def steps(run: Any, count: int = 10**9, pause_s: float = 0.002) -> None:
    """A loop that can be stopped."""
    for _ in run.batches(range(count)):
        time.sleep(pause_s)
        run.log(loss=1.0)


def imports_and_pools(run: Any) -> int:
    """What a training function may well do late."""
    time.sleep(0.5)
    from concurrent.futures import ThreadPoolExecutor

    import torch

    with ThreadPoolExecutor(2) as pool:
        return int(sum(pool.map(lambda n: int(torch.tensor(n)), range(3))))


def computes_and_is_deaf(run: Any) -> None:
    """A loop inside torch that asks nobody."""
    import torch

    run.log(loss=1.0)
    x = torch.ones(200, 200)
    while True:
        x = (x @ x).clamp(0, 1)


def waits_for(run: Any, path: str) -> int:
    """A job that ends when a file is there."""
    while not os.path.exists(path):
        time.sleep(0.01)
        run.log(loss=1.0)
    return 7
