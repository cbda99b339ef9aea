"""What reporting costs on Ray: steps of a bare TorchTrainer loop and of one with ``run``, in turns, in one job.

``python tests/benchmarks/ray_overhead.py`` needs ``jupyter-trainkit[ray]``; it starts a cluster on this machine.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from typing import Any

import trainkit as tk

#: Turns of each kind, and the steps of a turn.
TURNS, STEPS = 20, 200


def in_turns(run: Any, width: int, turns: int, steps: int) -> list[tuple[float, float]]:
    """Return the seconds of each turn, bare and with all that a job does, on rank 0."""
    import time

    import torch

    torch.set_num_threads(1)
    torch.manual_seed(run.rank)
    model = run.prepare(
        torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Linear(width, 1))
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    run.track(model=model, optimizer=optimizer)
    x, y = torch.randn(64, width), torch.randn(64, 1)

    def step() -> torch.Tensor:
        loss = torch.nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    found = []
    for turn in run.epochs(turns + 1):
        began_at = time.perf_counter()
        for _ in range(steps):
            step()
        bare_s = time.perf_counter() - began_at
        began_at = time.perf_counter()
        for _ in run.batches(range(steps * run.world_size)):
            run.log(loss=step())
        if turn:  # the first warms up
            found.append((bare_s, time.perf_counter() - began_at))
    return found


def main() -> None:
    """Print a line for each size of a step."""
    root = tempfile.mkdtemp(prefix="ray-overhead-")
    ranks = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    for width in (256, 2048):
        asked_at = time.perf_counter()
        turns, steps = (TURNS, STEPS) if width < 1000 else (10, 50)
        job = tk.submit(in_turns, ranks=ranks, address="local", root=root, width=width, turns=turns, steps=steps)
        while not job.running() and not job.done():
            time.sleep(0.05)
        start_s = time.perf_counter() - asked_at
        found = job.result(timeout=280)
        bare_ms, ours_ms = (1000 * min(turn[kind] for turn in found) / steps for kind in (0, 1))
        middle = statistics.median(bare / ours for bare, ours in found)
        print(
            f"{ranks} ranks on Ray, steps of {bare_ms:.2f} ms: {bare_ms / ours_ms:.3f} of the bare speed is kept, "
            f"by the fastest of {len(found)} turns each ({middle:.3f} by the median of neighbours); "
            f"it ran {start_s:.1f} s after it was submitted",
            flush=True,
        )


if __name__ == "__main__":
    main()
