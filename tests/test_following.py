"""Live ``lr`` and ``weight_decay``: what optimizers and schedulers make of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from trainkit.training.following import follow

Make = Callable[[torch.optim.Optimizer], Any]


def optimizer_of(*rates: float, decay: tuple[float, ...] = ()) -> torch.optim.Optimizer:
    """An optimizer with a group for each rate."""
    groups = [
        {"params": [torch.nn.Parameter(torch.ones(1))], "lr": rate, "weight_decay": wd}
        for rate, wd in zip(rates, decay or (0.0,) * len(rates), strict=True)
    ]
    return torch.optim.SGD(groups, lr=1.0)


def rates(optimizer: torch.optim.Optimizer, name: str = "lr") -> list[float]:
    """What its groups have."""
    return [float(group[name]) for group in optimizer.param_groups]


def test_one_rate_becomes_what_is_set() -> None:
    """Whatever the parameter of the job was called or held before."""
    optimizer = optimizer_of(0.1, 0.1)
    assert follow([optimizer], {"lr": 0.03}, {"lr": 7.0}) == []
    assert rates(optimizer) == [0.03, 0.03]


def test_groups_keep_their_proportions() -> None:
    """The group that had the job's value gets the new one; a decay of 0 stays 0."""
    optimizer = optimizer_of(0.1, 0.01, decay=(0.0, 0.5))
    follow([optimizer], {"lr": 0.2, "weight_decay": 0.25}, {"lr": 0.1, "weight_decay": None})
    assert rates(optimizer) == pytest.approx([0.2, 0.02])
    assert rates(optimizer, "weight_decay") == [0.0, 0.25]


@pytest.mark.parametrize(
    "make",
    [
        lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step)),
        lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=9),
        lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.7),
        lambda optimizer: lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=9),
        lambda optimizer: lr_scheduler.CyclicLR(optimizer, 0.01, 0.1, step_size_up=3),
        lambda optimizer: lr_scheduler.SequentialLR(
            optimizer,
            [lr_scheduler.LinearLR(optimizer, total_iters=2), lr_scheduler.ExponentialLR(optimizer, 0.8)],
            milestones=[2],
        ),
    ],
    ids=["lambda", "cosine", "exponential", "one cycle", "cyclic", "sequential"],
)
def test_a_schedule_goes_on_at_the_same_share_of_its_height(make: Make) -> None:
    """After a change to half, every later rate is half of what it would have been."""
    plain, changed = optimizer_of(0.1), optimizer_of(0.1)
    schedulers = [make(plain), make(changed)]
    for step in range(8):
        if step == 3:
            assert follow([changed, schedulers[1]], {"lr": 0.05}, {"lr": 0.1}) == []
        share = 0.5 if step >= 3 else 1.0
        assert rates(changed) == pytest.approx([share * rate for rate in rates(plain)])
        for optimizer, scheduler in zip((plain, changed), schedulers, strict=True):
            optimizer.step()
            scheduler.step()


def test_a_plateau_goes_on_from_the_new_rate() -> None:
    """It has no base: what is set is what it next lowers."""
    optimizer = optimizer_of(0.1)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    follow([optimizer, scheduler], {"lr": 0.04}, {"lr": 0.1})
    optimizer.step()
    scheduler.step(1.0)
    scheduler.step(2.0)
    assert rates(optimizer) == [0.02]


def test_a_scheduler_that_is_not_tracked_is_told_of() -> None:
    """It would set the rate back."""
    optimizer = optimizer_of(0.1)
    lr_scheduler.ExponentialLR(optimizer, 0.9)
    (doubt,) = follow([optimizer], {"lr": 0.05}, {"lr": 0.1})
    assert "run.track(scheduler=...)" in doubt
