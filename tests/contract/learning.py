"""A training loop as people write it, for the tests of several ranks."""

from __future__ import annotations

from typing import Any


def learns(
    run: Any,
    epochs: int = 3,
    batch_size: int = 16,
    pause_s: float = 0.0,
    lr: float = 0.05,
    fails_on: int = -1,
    rows: int = 256,
) -> Any:
    """Train a small network; one rank may fail."""
    import time

    import torch
    from torch.utils.data import DataLoader, TensorDataset

    torch.manual_seed(0)
    x = torch.randn(rows, 8)
    y = x @ torch.randn(8, 1)
    model = run.prepare(torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    generator = torch.Generator().manual_seed(1)
    run.track(model=model, optimizer=optimizer)
    run.checkpoint_every(steps=10)
    loader = DataLoader(TensorDataset(x, y), batch_size, shuffle=True, generator=generator)
    if run.rank == 0:
        print("training begins")
    for _ in run.epochs(epochs):
        for inputs, targets in run.batches(loader):
            if run.rank == fails_on and run.step == 5:
                raise ValueError("the data is wrong")
            loss = torch.nn.functional.mse_loss(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
            time.sleep(pause_s)
    return model


learns.__module__ = "__main__"  # as a notebook has it: not importable on the other side, so it travels by value


def furthest(a: dict[str, Any], b: dict[str, Any]) -> float:
    """Return how far two state dicts are apart, at most, over all their numbers."""
    assert sorted(a) == sorted(b)
    return max(float((a[name] - b[name]).abs().max()) for name in a)
