"""Training loops to be verified: one that resumes exactly, and three with the mistakes that people make."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def exact(run: Any, leave_out: tuple[str, ...] = (), own_draws: bool = False) -> torch.nn.Module:
    """A loop whose parts can be left out of what is tracked."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.2))
    model.append(torch.nn.Linear(8, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    ema = torch.optim.swa_utils.AveragedModel(model)
    draws = np.random.default_rng() if own_draws else None
    running_loss = 0.0
    tracked = {"model": model, "optimizer": optimizer, "ema": ema}
    run.track(**{name: thing for name, thing in tracked.items() if name not in leave_out})
    loader = torch.utils.data.DataLoader(torch.randn(40, 4), batch_size=8, shuffle=True)
    for _ in run.epochs(4):
        for x in run.batches(loader):
            noise = 1.0 if draws is None else 1 + 0.1 * draws.random()
            loss = (model(x * noise) - 1).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            ema.update_parameters(model)
            running_loss += loss.item()
            run.log(loss=loss)
    return model


def without_optimizer(run: Any) -> torch.nn.Module:
    """Forgets the optimizer."""
    return exact(run, leave_out=("optimizer",))


def without_average(run: Any) -> torch.nn.Module:
    """Forgets the average of the weights."""
    return exact(run, leave_out=("ema",))


def with_own_draws(run: Any) -> torch.nn.Module:
    """Draws from an unseeded generator of its own."""
    return exact(run, own_draws=True)


def tracks_nothing(run: Any) -> None:
    """Cannot be resumed."""
    for _ in range(20):
        run.log(loss=1.0)
