"""A trained model of a table: it predicts from DataFrames, and lives in one safe file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from trainkit.errors import ModelFileError, TableError, TrainkitError
from trainkit.files.modelfile import MODEL_FORMAT, load_model_content
from trainkit.tabular.columns import named_columns
from trainkit.tabular.conversion import convert
from trainkit.tabular.features import Features
from trainkit.tabular.frames import with_missing
from trainkit.tabular.labels import Intervals, predictions
from trainkit.tabular.network import TableNet
from trainkit.tabular.sources import as_frame, described

VERSION, KIND = 1, "table"
ROWS_AT_ONCE = 8192


class Target(msgspec.Struct, forbid_unknown_fields=True):
    """What is predicted.

    Attributes:
        name: the column.
        task: regression or classification.
        labels: the classes in the order of the network's outputs.
        center, scale: of a regression's target, in its units; seconds for time spans.
        intervals: what the classes are, if they are intervals.
        is_duration: whether the target of a regression is a time span.
    """

    name: str
    task: Literal["regression", "classification"]
    labels: list[bool | int | float | str]
    center: float = 0.0
    scale: float = 1.0
    intervals: Intervals | None = None
    is_duration: bool = False


class Shape(msgspec.Struct, forbid_unknown_fields=True):
    """The size of the network: what :class:`TableNet` is made from, besides the features."""

    hidden: list[int]
    outputs: int
    members: int
    dropout: float


class TableModel:
    """Predicts a column from the others.

    Made by training (:func:`trainkit.tabular.fit.fit`), or by :func:`load_model`.

    Attributes:
        target: what is predicted.
        features: how a table is read.
        metrics: of the best epoch, on the validation rows.
        options: what it was trained with.
        network: the torch module; call it with what ``features.encode`` gives.
    """

    def __init__(self, features: Features, target: Target, shape: Shape, options: Mapping[str, Any]) -> None:
        self.features, self.target, self.shape = features, target, shape
        self.options = dict(options)
        self.metrics: dict[str, float] = {}
        self.network = TableNet(features, shape.hidden, shape.outputs, shape.members, shape.dropout)
        self._best: dict[str, Tensor] | None = None

    def __repr__(self) -> str:
        kind = f" ({len(self.target.labels)} classes)" if self.target.labels else ""
        columns = len({column.name for column in self.features.columns})
        return f"TableModel({self.target.task} of {self.target.name}{kind} from {columns} columns)"

    def predict(self, rows: Any) -> pd.Series:
        """Predict the target of new rows.

        Columns may be in any order, and there may be more of them.  Missing values are predicted as missing, texts
        that training has not seen as unknown, with a warning where they are most of a column's.  Values of another
        kind than in training are converted where that is exact: 0 and 1 to False and True, ``"1.5"`` to a number.

        Args:
            rows: a DataFrame or another table; one row as a dict or as a Series such as ``table.iloc[0]``; or a
                list of dicts.

        Returns:
            Labels of the training table's type, or numbers in the target's units, (rows,), with the index of a
            DataFrame.

        Raises:
            TableError: a needed column is missing, holds another kind of values than in training, or holds several
                texts of which training has seen none.
        """
        frame = self._rows(rows)
        out = self._forward(frame)
        if self.target.task == "regression":
            values = out[:, 0]
            if self.target.is_duration:
                values = np.round(values * 1e6).astype(np.int64).astype("timedelta64[us]")
            return pd.Series(values, index=frame.index, name=self.target.name)
        labels = predictions(self.target.labels, self.target.intervals)
        return pd.Series(labels.array[out.argmax(1)], index=frame.index, name=self.target.name)

    def predict_proba(self, rows: Any) -> pd.DataFrame:
        """Return the probability of every class, (rows, classes), one column per label.

        Args:
            rows: as with :meth:`predict`.

        Raises:
            TrainkitError: this is a regression.
            TableError: as with :meth:`predict`.
        """
        if self.target.task == "regression":
            raise TrainkitError(f"{self.target.name!r} is a number, not a class; use predict")
        frame = self._rows(rows)
        labels = predictions(self.target.labels, self.target.intervals)
        return pd.DataFrame(self._forward(frame), index=frame.index, columns=pd.Index(labels))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model into one file; :func:`load_model` reads it."""
        torch.save(self.__trainkit_export__(), path)

    def outputs(self, numbers: Tensor, categories: Tensor) -> Tensor:
        """Return what the members say together: probabilities, or numbers in the target's units.

        Args:
            numbers: float32, (rows, numeric features).
            categories: int64, (rows, categories).

        Returns:
            float32 on the CPU, (rows, classes) or (rows, 1).
        """
        was_training = self.network.training
        self.network.eval()
        parts = []
        with torch.inference_mode():
            for some, other in zip(
                torch.split(numbers, ROWS_AT_ONCE), torch.split(categories, ROWS_AT_ONCE), strict=True
            ):
                out = self.network(some, other)
                if self.target.task == "classification":
                    parts.append(out.softmax(-1).mean(0).cpu())
                else:
                    parts.append((out.mean(0).double() * self.target.scale + self.target.center).cpu())
        self.network.train(was_training)
        return torch.cat(parts) if parts else torch.zeros(0, self.shape.outputs)

    def _rows(self, rows: Any) -> pd.DataFrame:
        if isinstance(rows, pd.Series):
            frame = rows.to_frame().T
        elif isinstance(rows, Mapping) and not any(map(pd.api.types.is_list_like, rows.values())):
            frame = pd.DataFrame([dict(rows)])
        else:
            try:
                frame = rows if isinstance(rows, pd.DataFrame) else as_frame(rows)
            except TableError as error:
                raise TableError(
                    f"predict takes a DataFrame or another table, one row as a dict or a Series, or a list of "
                    f"dicts; got {described(rows)}"
                ) from error
        return with_missing(named_columns(frame), self.options.get("missing") or ())

    def _forward(self, frame: pd.DataFrame) -> np.ndarray:
        numbers, categories = self.features.encode(convert(frame, self.features))
        device = self.network.signs.device
        out = self.outputs(torch.from_numpy(numbers).to(device), torch.from_numpy(categories).to(device))
        return out.double().numpy()

    # --- the state: the weights now, and the best so far ---------------------------------------------

    def keep_best(self, metrics: Mapping[str, float]) -> None:
        """Remember the present weights as the best so far, with their metrics."""
        self._best = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        self.metrics = dict(metrics)

    def use_best(self) -> None:
        """Go back to the best weights, if any were kept."""
        if self._best is not None:
            self.network.load_state_dict(self._best)

    def state_dict(self) -> dict[str, Any]:
        """Return all that changes in training: weights, best weights, metrics."""
        return {"network": self.network.state_dict(), "best": self._best, "metrics": self.metrics}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave."""
        self.network.load_state_dict(state["network"])
        self._best, self.metrics = state["best"], dict(state["metrics"])

    def __trainkit_export__(self) -> dict[str, Any]:
        """Return the model file's content: plain values and tensors, the best weights so far."""
        weights = self._best if self._best is not None else self.network.state_dict()
        return {
            "format": MODEL_FORMAT,
            "version": VERSION,
            "kind": KIND,
            "weights": {name: value.detach().cpu().clone() for name, value in weights.items()},
            "features": msgspec.to_builtins(self.features),
            "target": msgspec.to_builtins(self.target),
            "shape": msgspec.to_builtins(self.shape),
            "metrics": {name: float(value) for name, value in self.metrics.items()},
            "options": msgspec.to_builtins(self.options),
        }


def load_model(path: str | os.PathLike[str]) -> TableModel:
    """Load a model that was trained on a table; nothing in the file is run.

    Args:
        path: ``models/<job_id>.pt``, or what :meth:`TableModel.save` wrote.

    Raises:
        ModelFileError: no such file, not a model of a table, damaged, or claiming shapes it does not hold.
    """
    file = Path(path)
    content = load_model_content(file)
    kind = content.get("kind")
    if kind == "state_dict":
        raise ModelFileError(
            f"{file} holds the weights of a model of your own; make it and load them: "
            f"model.load_state_dict(torch.load({str(file)!r}, weights_only=True)['state_dict'])"
        )
    if kind != KIND or content.get("version") != VERSION:
        raise ModelFileError(
            f"{file} is a {kind!r} of version {content.get('version')!r}; "
            f"this trainkit reads {KIND!r} of version {VERSION}"
        )
    try:
        features = msgspec.convert(content["features"], Features)
        target = msgspec.convert(content["target"], Target)
        shape = msgspec.convert(content["shape"], Shape)
        metrics = msgspec.convert(content.get("metrics", {}), dict[str, float])
        options = msgspec.convert(content.get("options", {}), dict[str, Any])
        weights = msgspec.convert(content["weights"], dict[str, Any])
    except (KeyError, msgspec.ValidationError) as error:
        raise ModelFileError(f"{file} is damaged: {error}") from None
    _check_weights(file, features, shape, target, weights)
    model = TableModel(features, target, shape, options)
    model.network.load_state_dict(weights)
    model.network.eval()
    model.metrics = metrics
    return model


def _check_weights(file: Path, features: Features, shape: Shape, target: Target, weights: dict[str, Any]) -> None:
    """Compare names, types and shapes with the network's before any memory is taken for it."""
    outputs = len(target.labels) if target.task == "classification" else 1
    sane = 1 <= len(shape.hidden) <= 64 and all(0 < size <= 2**20 for size in (*shape.hidden, shape.members))
    if not sane or shape.outputs != outputs or not 0 <= shape.dropout < 1:
        raise ModelFileError(f"{file} is damaged: it claims a network of {shape}")
    with torch.device("meta"):
        expected = TableNet(features, shape.hidden, shape.outputs, shape.members, shape.dropout).state_dict()
    if expected.keys() != weights.keys():
        odd = sorted(expected.keys() ^ weights.keys())
        raise ModelFileError(f"{file} is damaged: its weights differ from the network's in {', '.join(odd)}")
    for name, empty in expected.items():
        value = weights[name]
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta:
            raise ModelFileError(f"{file} is damaged: {name} is no plain tensor")
        if value.shape != empty.shape or value.dtype != empty.dtype:
            raise ModelFileError(
                f"{file} is damaged: {name} is {value.dtype} {tuple(value.shape)}, "
                f"expected {empty.dtype} {tuple(empty.shape)}"
            )
        if value.untyped_storage().nbytes() < value.numel() * value.element_size():
            raise ModelFileError(f"{file} is damaged: {name} claims {value.numel()} values and holds fewer")
