"""Training on a table: a training function like any user's, on two screens."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional

from trainkit.tabular.adam import FlatAdamW
from trainkit.tabular.columns import as_numbers, named_columns
from trainkit.tabular.features import learn
from trainkit.tabular.feeding import Batches, split
from trainkit.tabular.labels import indices, intervals_of
from trainkit.tabular.metrics import classification_metrics, regression_metrics
from trainkit.tabular.model import Shape, TableModel, Target
from trainkit.tabular.network import TableNet
from trainkit.tabular.options import check_options
from trainkit.tabular.plan import Plan, check_table
from trainkit.tabular.sources import open_table
from trainkit.tabular.step import Backpropagation
from trainkit.training.stopping import EarlyStopping

if TYPE_CHECKING:
    from trainkit.training.run import Run

WEIGHT_DECAY = 1e-3
HIDDEN_SHARE = 0.05  # of the values, hidden in training
WARM_UP = 0.1  # of all steps
MANY_MULTIPLICATIONS = 100_000_000  # per step; about 5 ms on one core
MANY_ROWS = 10_000  # from here on a few wide members do as well as many small ones, and are quicker


def fit(run: Run, data: pd.DataFrame | str | Path | None = None, **options: Any) -> TableModel:
    """Train a network that predicts one column of a table from the others.

    Args:
        run: the job, from within.
        data: a table, the path of one, or None for a synthetic one.
        **options: see :class:`~trainkit.tabular.options.TrainOptions`.

    Returns:
        The model, with the weights of the epoch whose validation loss was lowest.

    Raises:
        TableError: the table cannot be read or learnt from.
        OptionError: an option is unknown or out of range.
    """
    told = check_options(options)
    with run.phase("loading"):
        frame, path = open_table(data, told)
        plan = check_table(frame, told, path=path)
        for warning in plan.warnings:
            run.warn(warning)
        run.message(plan.summary)
        run.update_params(**plan.params)
        params = plan.params
        device = torch.device(run.device)
        model, train, validation = _prepare(frame, plan, device)
        batches = Batches(*train, batch_size=params["batch_size"], seed=params["seed"], hidden_share=HIDDEN_SHARE)

    dropout_rng = torch.Generator(device).manual_seed(params["seed"])
    model.network.dropout_rng = dropout_rng
    optimizer = FlatAdamW(model.network.parameters(), weight_decay=WEIGHT_DECAY)
    backpropagate = Backpropagation(model.network, optimizer, classes=bool(plan.classes))
    stopping = EarlyStopping(params["patience"])
    run.track(model=model, optimizer=optimizer, stopping=stopping, dropout_rng=dropout_rng)
    run.best("val_loss", "min")
    total_steps = params["epochs"] * len(batches)

    with threads_for(model.network, params["batch_size"]):
        for epoch in run.epochs(params["epochs"]):
            model.network.train()
            for batch in run.batches(batches):
                step = run.step - 1
                lr = run.params["lr"] * one_cycle(step / total_steps)
                backpropagate(batch)
                if run.world_size > 1:
                    run.sum_over_ranks(optimizer.gradient.mul_(batches.own_share))
                optimizer.step(lr)
                if step % told.log_every == 0:
                    run.log(loss=backpropagate.loss(), lr=lr)
            with run.phase("validating"):
                metrics: dict[str, Any] = validate(model, validation)
                run.log(**metrics)
            if stopping.is_best(metrics["val_loss"], epoch):
                model.keep_best(metrics)
            elif stopping.is_over(epoch):
                run.end_early(
                    "early_stopping", f"no improvement since epoch {stopping.best_epoch + 1}; {plan.summary}"
                )

    model.use_best()
    model.network.eval()
    return model


def threads_for(network: TableNet, batch_size: int) -> AbstractContextManager[object]:
    """Compute small steps in one thread: handing them out costs more than they take.

    With two threads beside another busy process such steps took ten times as long.  The limit is that of the
    calling thread alone; what else runs in the process keeps its own.
    """
    weights = sum(weight.numel() for weight in network.weights)
    multiplications = 3 * len(network.signs) * batch_size * weights  # forwards, and twice backwards
    if multiplications > MANY_MULTIPLICATIONS:
        return nullcontext()
    limit: AbstractContextManager[object] = threadpool_limits(limits=1, user_api="openmp")
    return limit


def validate(model: TableModel, rows: tuple[Tensor, Tensor, Tensor]) -> dict[str, float]:
    """Return ``val_loss`` and the metrics of the task on held-out rows."""
    numbers, categories, targets = rows
    out, actual = model.outputs(numbers, categories), targets.cpu()
    if model.target.task == "classification":
        loss = functional.nll_loss(out.clamp_min(1e-9).log(), actual)
        metrics = classification_metrics(out, actual)
    else:
        target = model.target
        loss = functional.mse_loss((out[:, 0] - target.center) / target.scale, actual.double())
        metrics = regression_metrics(out[:, 0], actual.double() * target.scale + target.center)
    return {"val_loss": float(loss)} | {f"val_{name}": value for name, value in metrics.items()}


def one_cycle(done: float) -> float:
    """Return the share of the learning rate at a point of the run: up along a line, then down along a cosine.

    Source: Smith and Topin 2018 (arXiv:1708.07120).

    >>> one_cycle(0.1), round(one_cycle(1.0), 3)
    (1.0, 0.0)
    """
    if done < WARM_UP:
        return 0.04 + 0.96 * done / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - WARM_UP) / (1 - WARM_UP))))


Rows = tuple[Tensor, Tensor, Tensor]


def _prepare(frame: pd.DataFrame, plan: Plan, device: torch.device) -> tuple[TableModel, Rows, Rows]:
    """Split the rows, learn from the training rows how to read them, and make the model."""
    params = plan.params
    frame = named_columns(frame)
    frame = frame[frame[plan.target].notna()]
    generator = torch.Generator().manual_seed(params["seed"])
    labels = _labels(frame[plan.target], plan)
    train, validation = split(labels, max(1, len(plan.classes)), params["val_fraction"], generator)
    features = learn(frame.iloc[train.numpy()], plan.features, plan.ranges)
    target = Target(name=plan.target, task=plan.task, labels=plan.classes)
    if plan.task == "classification":
        target.intervals = intervals_of(frame[plan.target], plan.classes)
    values = labels
    if plan.task == "regression":
        numbers = torch.tensor(as_numbers(frame[plan.target]))
        target.center, target.scale = float(numbers[train].mean()), float(numbers[train].std(correction=0)) or 1.0
        values = ((numbers - target.center) / target.scale).float()
        target.is_duration = pd.api.types.is_timedelta64_dtype(frame[plan.target].dtype)
    shape = Shape(
        hidden=params["hidden"],
        outputs=max(1, len(plan.classes)),
        members=8 if len(frame) < MANY_ROWS else 4,
        dropout=params["dropout"],
    )
    model = TableModel(features, target, shape, params)
    model.network.reset(features, generator)
    model.network.to(device)
    encoded = (*map(torch.from_numpy, features.encode(frame)), values)
    return model, *(tuple(rows[part].to(device) for rows in encoded) for part in (train, validation))  # type: ignore[return-value]


def _labels(column: pd.Series, plan: Plan) -> Tensor:
    """Return class indices, or zeros for regression, (rows,)."""
    if plan.task == "regression":
        return torch.zeros(len(column), dtype=torch.int64)
    return torch.from_numpy(indices(column, plan.classes))
