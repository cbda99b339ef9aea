"""The step by hand against autograd and torch's own AdamW."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional

from trainkit.tabular.adam import FlatAdamW
from trainkit.tabular.features import learn
from trainkit.tabular.feeding import Batches
from trainkit.tabular.network import TableNet, draw_mask, kept_scale
from trainkit.tabular.step import Backpropagation

LR, DECAY = 3e-3, 1e-2


def a_network(
    names: list[str], outputs: int, dropout: float, hidden: tuple[int, ...] = (24, 16)
) -> tuple[TableNet, Batches]:
    rng = np.random.default_rng(0)
    rows = 75
    frame = pd.DataFrame(
        {
            "size": np.where(rng.random(rows) < 0.1, np.nan, rng.normal(size=rows)),
            "age": rng.integers(0, 90, rows).astype(float),
            "kind": rng.choice(["a", "b", "c"], rows),
            "wet": rng.random(rows) < 0.5,
        }
    )
    features = learn(frame, names)
    network = TableNet(features, list(hidden), outputs, 4, dropout)
    network.reset(features, torch.Generator().manual_seed(1))
    numbers, categories = map(torch.from_numpy, features.encode(frame))
    targets = torch.from_numpy(rng.integers(0, outputs, rows) if outputs > 1 else rng.normal(size=rows)).float()
    targets = targets.long() if outputs > 1 else targets
    return network, Batches(numbers, categories, targets, batch_size=16, seed=0, hidden_share=0.1)


def the_usual_step(network: TableNet, optimizer: torch.optim.Optimizer, batch: Any) -> float:
    numbers, categories, targets = batch
    outputs = network(numbers, categories)
    repeated = targets.expand(len(outputs), -1).flatten()
    if outputs.shape[2] > 1:
        loss = functional.cross_entropy(outputs.flatten(0, 1), repeated)
    else:
        loss = functional.mse_loss(outputs.flatten(), repeated)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


@pytest.mark.parametrize(
    ("names", "outputs", "dropout", "hidden"),
    [
        (["size", "age", "kind", "wet"], 3, 0.3, (24, 16)),
        (["size", "age", "kind", "wet"], 1, 0.0, (24, 16)),
        (["size", "kind"], 2, 0.5, (17,)),
        (["age"], 1, 0.1, (8, 8, 8)),
        (["kind", "wet"], 5, 0.0, (12,)),
    ],
)
def test_the_loss_curve_is_that_of_the_usual_loop(
    names: list[str], outputs: int, dropout: float, hidden: tuple[int, ...]
) -> None:
    """Losses and weights agree to rounding over epochs with a smaller last batch, with words, numbers or both."""
    network, batches = a_network(names, outputs, dropout, hidden)
    usual = copy.deepcopy(network)
    for each in (network, usual):
        each.train()
        each.dropout_rng = torch.Generator().manual_seed(5)
    ours = FlatAdamW(network.parameters(), weight_decay=DECAY)
    backpropagate = Backpropagation(network, ours, classes=outputs > 1)
    optimizer = torch.optim.AdamW(usual.parameters(), lr=LR, weight_decay=DECAY)
    for epoch in range(4):
        batches.set_epoch(epoch)
        for batch in batches:
            backpropagate(batch)
            ours.step(LR)
            expected = the_usual_step(usual, optimizer, batch)
            assert float(backpropagate.loss()) == pytest.approx(expected, rel=1e-4)
    for (name, found), value in zip(network.named_parameters(), usual.parameters(), strict=True):
        assert torch.allclose(found, value, rtol=1e-3, atol=1e-4), name


def test_the_optimizers_state_is_that_of_torch_in_both_directions() -> None:
    """A run can be resumed from a state of torch.optim.AdamW, and torch.optim.AdamW from ours."""
    network, batches = a_network(["size", "kind"], 2, 0.0)
    network.train()
    usual = copy.deepcopy(network)
    theirs = torch.optim.AdamW(usual.parameters(), lr=LR, weight_decay=DECAY)
    first, second = list(batches)[:2]
    the_usual_step(usual, theirs, first)

    ours = FlatAdamW(network.parameters(), weight_decay=0.5)
    network.load_state_dict(usual.state_dict())
    ours.load_state_dict(theirs.state_dict())
    Backpropagation(network, ours, classes=True)(second)
    ours.step(LR)
    the_usual_step(usual, theirs, second)
    assert all(map(lambda a, b: torch.allclose(a, b, atol=1e-5), network.parameters(), usual.parameters()))

    back = torch.optim.AdamW(usual.parameters(), lr=LR)
    back.load_state_dict(ours.state_dict())
    for position, state in theirs.state_dict()["state"].items():
        found = back.state_dict()["state"][position]
        assert float(found["step"]) == 2
        assert torch.allclose(found["exp_avg"], state["exp_avg"], atol=1e-6)
        assert torch.allclose(found["exp_avg_sq"], state["exp_avg_sq"], atol=1e-8)


def test_a_mask_leaves_out_its_share_and_keeps_the_sum() -> None:
    """Masks have the share that was asked for, to a 256th, and come from the generator alone."""
    for dropout in (0.001, 0.1, 0.5, 0.999):
        draws = [
            draw_mask(torch.empty(101, 999), dropout, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
        ]
        assert set(draws[0].unique().tolist()) == {0.0, 1.0}
        share = max(1 / 256, round(dropout * 256) / 256) if dropout < 0.99 else 255 / 256
        assert float(1 - draws[0].mean()) == pytest.approx(share, abs=0.01)
        assert 1 / kept_scale(dropout) == pytest.approx(1 - share)
        assert torch.equal(draws[0], draws[1])
        assert not torch.equal(draws[0], draws[2])
    assert kept_scale(0.0) == 1.0
