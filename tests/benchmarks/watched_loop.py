"""What a loop keeps of its speed when all is on: a log at every step, checkpoints, stop and pause, the open panel.

Ours runs in a real kernel whose panel is open and refreshed; the bare loop runs before and after it, in the same
kernel.  The others log as often, show a progress bar and save as often; each is beside its own bare loop.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from frame import FOLDER, Figure, Plan, apart, in_turn, median, median_or_none

#: By the length of a step: the width of the network and its batch, and what must be kept.
STEPS = {"0.3 ms": (144, 144, "≥ 0.99"), "10 ms": (600, 600, "≥ 0.995")}
SAVE_EVERY_S = 10.0
#: The least that a log can be which never waits; it can be neither watched nor stopped.
LEAST = "a deque and a thread that writes it"
PEERS = ("TensorBoard", "trackio", "W&B offline", "Accelerate + TensorBoard")


def measure(plan: Plan) -> Iterator[Figure]:
    """Yield for each length of a step the share of the bare loop's steps per second that is kept."""
    seconds = 1.0 if plan.quick else 11.0
    names = (LEAST, *PEERS) if plan.peers else (LEAST,)
    for told, (width, rows, goal) in STEPS.items():
        peers = [
            lambda name=name, width=width, rows=rows: apart(
                beside_bare,
                name=name,
                width=width,
                rows=rows,
                seconds=min(seconds, 4.0),
                python=plan.peers or sys.executable,
            )
            for name in names
        ]
        told_ours = {"width": width, "rows": rows, "seconds": seconds, "turns": plan.repeats}
        ours, *theirs = in_turn(1, lambda told=told_ours: apart(in_kernel, **told), *peers)
        pairs = ours[0] if ours else []
        shares = [watched[0] / bare[0] for bare, watched in pairs]
        by_cpu = [bare[1] / watched[1] for bare, watched in pairs]
        bare = median([bare[0] for bare, _ in pairs])
        yield Figure(
            f"own loop of {told} a step, all on", "steps/s",
            median([watched[0] for _, watched in pairs]), len(pairs),
            floor=("bare", bare), ratio=median(shares), of="of bare", goal=goal,
            peers={name: median_or_none(found) for name, found in zip(names, theirs, strict=True)},
            note=f"{1e3 / bare:.2f} ms a step; the others are shares of their bare loops", detail={"pairs": pairs},
        )  # fmt: skip
        yield Figure(
            f"… of {told} a step: CPU time of the whole kernel", "µs a step",
            1e6 * median([watched[1] for _, watched in pairs]), len(pairs),
            floor=("bare", 1e6 * median([bare[1] for bare, _ in pairs])), ratio=median(by_cpu), of="of bare",
            goal=goal,
            note="all threads: the training, the writer, the panel, its messages; no other program counts in",
        )  # fmt: skip


# --- the step -----------------------------------------------------------------------------------------


class Training:
    """A small network and its batches, as people write them."""

    def __init__(self, width: int, rows: int) -> None:
        import torch

        torch.manual_seed(0)
        self.model = torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Linear(width, 1))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9)
        self.batches = [(torch.randn(rows, width), torch.randn(rows, 1)) for _ in range(50)]
        self.loss = torch.nn.functional.mse_loss

    def begin(self) -> None:
        """Compute in one thread, as is best for steps as short as this; to be said in the thread that trains."""
        import torch

        torch.set_num_threads(1)

    def step(self, x: Any, y: Any) -> Any:
        """Make one step; return the loss, as a tensor."""
        self.optimizer.zero_grad()
        loss = self.loss(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        return loss


def bare_loop(training: Training, seconds: float, each: Callable[[int, Any], None] | None = None) -> float:
    """Make steps for so long; return steps per second.  ``each(step, loss)`` is what is done besides."""
    training.begin()
    began = time.perf_counter()
    step = 0
    while time.perf_counter() - began < seconds:
        for x, y in training.batches:
            loss = training.step(x, y)
            step += 1
            if each is not None:
                each(step, loss)
    return step / (time.perf_counter() - began)


# --- ours, in a kernel --------------------------------------------------------------------------------

_CELLS = """
import sys, threading
sys.path.insert(0, {folder!r})
import trainkit as tk
from watched_loop import Training, bare_loop, timed, watched
training = Training({width}, {rows})
"""
_BARE = """
import threading
kept = []
thread = threading.Thread(target=lambda: kept.append(timed(bare_loop, training, {seconds})))
thread.start()
"""
_WATCHED = "job = tk.submit(watched, training=training, seconds={seconds})\njob"


def timed(loop: Callable[..., float], *told: Any) -> tuple[float, float]:
    """Return steps per second of a loop, and the CPU seconds that a step takes in all threads of this process."""
    began, used = time.perf_counter(), time.process_time()
    steps_per_s = loop(*told)
    return steps_per_s, (time.process_time() - used) / (steps_per_s * (time.perf_counter() - began))


def watched(run: Any, training: Training, seconds: float) -> tuple[float, float]:
    """The same loop as a job."""
    return timed(_watched_loop, run, training, seconds)


def _watched_loop(run: Any, training: Training, seconds: float) -> float:
    training.begin()
    run.track(model=training.model, optimizer=training.optimizer)
    began = time.perf_counter()
    for _ in run.epochs(1_000_000):
        for x, y in run.batches(training.batches):
            loss = training.step(x, y)
            run.log(loss=loss, lr=1e-3)
        if time.perf_counter() - began >= seconds:
            return float(run.step / (time.perf_counter() - began))
    raise AssertionError("a million epochs in so short a time")


def in_kernel(width: int, rows: int, seconds: float, turns: int) -> list[Any]:
    """Return what :func:`timed` gives of the bare loop and of the watched one between two of it, in one kernel."""
    from jupyter_client.manager import KernelManager

    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(env={**os.environ, "TRAINKIT_PANELS": "on"})
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)

        def cell(code: str) -> str:
            said: list[Any] = []
            reply = client.execute_interactive(code, timeout=120, output_hook=said.append)
            assert reply["content"]["status"] == "ok", reply["content"]
            return "".join(
                message["content"].get("text", "") for message in said if message["msg_type"] == "stream"
            )

        def bare() -> list[float]:
            cell(_BARE.format(seconds=seconds / 2))
            _drained(client, seconds / 2 + 0.3)
            found: list[float] = json.loads(cell("thread.join(); print([*kept[0]])"))
            return found

        cell(_CELLS.format(folder=str(FOLDER), width=width, rows=rows))
        cell("bare_loop(training, 0.5)")
        pairs = []
        updates = 0
        before = bare()
        for _ in range(turns):
            cell(_WATCHED.format(seconds=seconds))
            updates += _drained(client, seconds + 0.3)
            job = json.loads(cell("print([*job.result()])"))
            after = bare()
            # The machine gets slower and faster by itself: what is watched is beside what is before and after it.
            pairs.append([[(one + other) / 2 for one, other in zip(before, after, strict=True)], job])
            before = after
        assert updates > turns * seconds, f"the panel was not live: {updates} messages"
        return pairs
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def _drained(client: Any, seconds: float) -> int:
    """Read what the kernel publishes for so long, as a front end does; return how many updates of widgets came."""
    import queue

    until = time.monotonic() + seconds
    updates = 0
    while (left := until - time.monotonic()) > 0:
        try:
            message = client.get_iopub_msg(timeout=left)
        except queue.Empty:
            break
        updates += message["msg_type"] == "comm_msg"
    return updates


# --- others, each beside its own bare loop ---------------------------------------------------------------


def beside_bare(name: str, width: int, rows: int, seconds: float) -> float:
    """Return the share of the bare loop's speed that is kept with another library: the median of three pairs."""
    import torch
    from tqdm import tqdm

    training = Training(width, rows)
    log = LIBRARIES[name](training)
    bar = tqdm(file=open(os.devnull, "w"))  # noqa: SIM115 - for as long as the process
    saved_at = time.perf_counter()

    def each(step: int, loss: Any) -> None:
        nonlocal saved_at
        log(step, loss)
        bar.update()
        if time.perf_counter() - saved_at > SAVE_EVERY_S:
            torch.save(
                {"model": training.model.state_dict(), "optimizer": training.optimizer.state_dict()}, "c.pt"
            )
            saved_at = time.perf_counter()

    bare_loop(training, 0.5, each)
    shares = []
    for _ in range(3):
        bare = bare_loop(training, seconds)
        shares.append(bare_loop(training, seconds, each) / bare)
    return median(shares)


def _deque(training: Training) -> Callable[[int, Any], None]:
    lines: deque[dict[str, float]] = deque()
    file = open("log.jsonl", "w")  # noqa: SIM115 - for as long as the process

    def write() -> None:
        while True:
            time.sleep(0.05)
            file.write("".join(json.dumps(lines.popleft()) + "\n" for _ in range(len(lines))))
            file.flush()

    threading.Thread(target=write, daemon=True).start()
    return lambda step, loss: lines.append({"step": step, "time": time.time(), "loss": loss.item(), "lr": 1e-3})


def _tensorboard(training: Training) -> Callable[[int, Any], None]:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter("tensorboard")

    def log(step: int, loss: Any) -> None:
        writer.add_scalar("loss", loss.item(), step)
        writer.add_scalar("lr", 1e-3, step)

    return log


def _trackio(training: Training) -> Callable[[int, Any], None]:
    os.environ["TRACKIO_DIR"] = str(Path("trackio").absolute())
    import trackio

    trackio.init(project="benchmark", embed=False)
    return lambda step, loss: trackio.log({"loss": loss.item(), "lr": 1e-3}, step=step)


def _wandb(training: Training) -> Callable[[int, Any], None]:
    os.environ["WANDB_SILENT"] = "true"
    import wandb

    run = wandb.init(mode="offline", project="benchmark", dir=os.getcwd())
    return lambda step, loss: run.log({"loss": loss.item(), "lr": 1e-3})


def _accelerate(training: Training) -> Callable[[int, Any], None]:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, log_with="tensorboard", project_dir="accelerate")
    accelerator.init_trackers("benchmark")
    return lambda step, loss: accelerator.log({"loss": loss.item(), "lr": 1e-3}, step=step)


LIBRARIES = {
    LEAST: _deque,
    "TensorBoard": _tensorboard,
    "trackio": _trackio,
    "W&B offline": _wandb,
    "Accelerate + TensorBoard": _accelerate,
}
