"""Loaders with a generator of their own: wherever a run is cut, its epochs keep their order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import trainkit as tk
from trainkit.files.record import Status

Loader = torch.utils.data.DataLoader[Any]
STEPS, EPOCHS = 4, 3


def loader_of(generator: torch.Generator, *, again: bool = False) -> Loader:
    """Eight rows, two in a batch, in an order that the generator draws."""
    sampler = torch.utils.data.RandomSampler(range(8), replacement=again, generator=generator)
    return torch.utils.data.DataLoader(torch.arange(8), batch_size=2, sampler=sampler, generator=generator)


def rows(run: Any, kind: str, cut: int | None, after_epoch: bool) -> list[list[int]]:
    """The rows of every step; each kind has its generators in another way.

    The first attempt saves after the step ``cut``, or after its epoch, and fails in the next step.
    """
    kept = torch.Generator().manual_seed(1)
    seen = Seen()
    run.track(seen=seen)
    if kind == "tracked, and drawn from":
        run.track(kept=kept)
    once = loader_of(kept, again=kind == "with replacement")
    other = loader_of(torch.Generator().manual_seed(9))
    for epoch in run.epochs(EPOCHS):
        if kind == "made for each epoch":
            once = loader_of(torch.Generator().manual_seed(epoch))
        elif kind == "made alike for each epoch":
            once = loader_of(torch.Generator().manual_seed(2))
        elif kind == "seeded in each epoch":
            kept.manual_seed(epoch)
        for loader in (once, other) if kind == "two loaders" else (once, once) if kind == "twice" else (once,):
            for batch in run.batches(loader):
                if cut is not None and run._recorder.record.attempt == 1:
                    if run.step == cut and not after_epoch:
                        run.checkpoint()
                    if run._boundary._saved_at is not None:
                        raise RuntimeError("cut")
                drawn = torch.rand(1, generator=kept).item() if kind == "tracked, and drawn from" else 0.0
                seen.rows.append([*batch.tolist(), drawn])
        if after_epoch and cut is not None and run.step >= cut and run._recorder.record.attempt == 1:
            run.checkpoint()
    return seen.rows


class Seen:
    """What was seen, kept in the checkpoint."""

    def __init__(self) -> None:
        self.rows: list[list[int]] = []

    def state_dict(self) -> dict[str, Any]:
        return {"rows": [list(row) for row in self.rows]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = state["rows"]


@pytest.mark.parametrize(
    "kind",
    [
        "made once",
        "with replacement",
        "made for each epoch",
        "made alike for each epoch",
        "seeded in each epoch",
        "two loaders",
        "twice",
        "tracked, and drawn from",
    ],
)
def test_a_cut_anywhere_changes_no_order(root: Path, kind: str) -> None:
    """Within an epoch, at its end, and between two; what is checkpointed has seen what was done before."""
    whole = tk.submit(rows, kind=kind, cut=None, after_epoch=False).result(20)
    for cut, after_epoch in ((2, False), (4, False), (7, False), (1, True), (5, True)):
        if kind == "made alike for each epoch" and cut == 1:
            continue  # after one epoch nobody can tell it from one that is made once
        job = tk.submit(rows, kind=kind, cut=cut, after_epoch=after_epoch)
        assert job.wait(20) is Status.FAILED
        job.resume()
        assert job.result(20) == whole, (cut, after_epoch)
