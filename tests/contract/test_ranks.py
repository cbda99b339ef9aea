"""Several ranks act as one: the same weights, the same steps, one set of files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import trainkit as tk
from trainkit.record import Status

pytestmark = pytest.mark.ray
Eventually = Callable[..., None]


def learns(run: Any, epochs: int = 3, batch_size: int = 16, pause_s: float = 0.0, lr: float = 0.05) -> Any:
    """Train a small network as people write it."""
    import time

    import torch
    from torch.utils.data import DataLoader, TensorDataset

    torch.manual_seed(0)
    x = torch.randn(256, 8)
    y = x @ torch.randn(8, 1)
    model = run.prepare(torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    generator = torch.Generator().manual_seed(1)
    run.track(model=model, optimizer=optimizer)
    loader = DataLoader(TensorDataset(x, y), batch_size, shuffle=True, generator=generator)
    for _ in run.epochs(epochs):
        for rows, targets in run.batches(loader):
            loss = torch.nn.functional.mse_loss(model(rows), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
            time.sleep(pause_s)
    return model


def test_two_ranks_reach_the_weights_of_one_with_the_combined_batch(root: Path) -> None:
    """The rows come in the same order, each rank gets its own, and the gradients are their mean."""
    one = tk.submit(learns, runner="process", batch_size=32)
    two = tk.submit(learns, ranks=2, batch_size=16)
    assert [one.wait(60), two.wait(60)] == [Status.COMPLETED] * 2
    assert two.record.runner == "process"
    assert (one.record.step, two.record.step) == (24, 24)
    for (name, a), (_, b) in zip(one.model().items(), two.model().items(), strict=True):
        assert not name.startswith("module."), "a model file is that of one rank"
        assert (a - b).abs().max() < 1e-5, name
    assert len(two.metrics()) == 24, "one line a step: rank 0 reports"
