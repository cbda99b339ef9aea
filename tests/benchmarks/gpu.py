"""Logging on a GPU: what it costs at steps of 0.2 ms, and that it makes nobody wait for the device.

Where there is no GPU that torch can use, it says so and measures nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from frame import Figure, NotMeasuredError, Plan, apart, median

#: What makes the calling thread wait for the device, as the profiler of CUDA calls names it.
WAITS = (
    "cudaStreamSynchronize",
    "cudaDeviceSynchronize",
    "cudaEventSynchronize",
    "aten::item",
    "_local_scalar_dense",
)


def measure(plan: Plan) -> Iterator[Figure]:
    """Yield the share of the bare loop's speed that is kept, and how often the training thread waited."""
    try:
        found = [apart(logged_loop, steps=200 if plan.quick else 5_000) for _ in range(plan.repeats)]
    except NotMeasuredError as error:
        print(f"  {error}", flush=True)
        return
    card = found[0]["card"]
    bare, logged = (median([each[name] for each in found]) for name in ("bare", "logged"))
    yield Figure(
        f"own loop on {card}, a loss logged at every step", "steps/s", logged, plan.repeats, floor=("bare", bare),
        ratio=median([each["logged"] / each["bare"] for each in found]), of="of bare", goal="≥ 0.99",
        note=f"{1e3 / bare:.3f} ms a step", detail={"all": found},
    )  # fmt: skip
    yield Figure(
        "calls of the training thread that wait for the device, in 200 logged steps", "calls",
        max(each["waits"] for each in found), plan.repeats, goal="≤ 0", detail={"all": found},
    )  # fmt: skip


def logged_loop(steps: int) -> dict[str, Any]:
    """Return steps per second of a loop, bare and logged at every step, and the waits that a profile shows."""
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("there is no GPU here that torch can use")
    import trainkit as tk

    device = torch.device("cuda")
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    x, y = torch.randn(64, 64, device=device), torch.randn(64, 1, device=device)

    def step() -> Any:
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    def steps_per_s(each: Any, count: int) -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(count):
            each(step())
        torch.cuda.synchronize()
        return count / (time.perf_counter() - began)

    def fit(run: Any) -> dict[str, Any]:
        def log(loss: Any) -> None:
            run.log(loss=loss, lr=1e-3)

        steps_per_s(lambda loss: None, 100)
        steps_per_s(log, 100)
        bare, logged = [], []
        for _ in range(5):
            bare.append(steps_per_s(lambda loss: None, steps // 5))
            logged.append(steps_per_s(log, steps // 5))
        torch.cuda.synchronize()
        return {"bare": median(bare), "logged": median(logged), "waits": _waits(step, log)}

    return tk.submit(fit).result() | {"card": torch.cuda.get_device_name()}


def _waits(step: Any, log: Any) -> int:
    """How many calls of this thread waited for the device."""
    import threading

    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        for _ in range(200):
            log(step())
        mine = threading.get_native_id()
    return sum(
        1 for event in profiled.events() if event.thread in (mine, 1) and any(name in event.name for name in WAITS)
    )
