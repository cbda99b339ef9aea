"""What training on a table would do, decided before any job exists: target, task, features, defaults.

Neither torch nor the disk is touched here (except to find a line for a message).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from trainkit.errors import TableError
from trainkit.tabular import cells, doubts
from trainkit.tabular.columns import (
    as_numbers,
    as_words,
    find_column,
    kind_of,
    named_columns,
    separated_otherwise,
)
from trainkit.tabular.features import ID_NAME, MAX_WORDS
from trainkit.tabular.options import TrainOptions
from trainkit.tabular.read import line_of_row

Task = Literal["regression", "classification"]
TARGETS = ("y", "target", "label")
MIN_ROWS = 10
MAX_CLASSES = 1000
FEW_VALUES = 20  # whole numbers with more different values than this are amounts, not classes
TIMELIKE = re.compile(r"(?i)^(t|x|time|step|year|month|day|hour|age|epoch|date|n)$")


@dataclass(frozen=True)
class Plan:
    """What training on a table will do.

    Attributes:
        target: the column to predict.
        task: ``"regression"`` or ``"classification"``.
        features: the columns to learn from.
        classes: the labels in the order of the network's outputs; empty for regression.
        rows: how many rows have a target.
        warnings: what the user should know, each naming the column.
        summary: all that in one line.
        params: every option, with what was chosen from the data.
    """

    target: str
    task: Task
    features: list[str]
    classes: list[Any]
    rows: int
    warnings: list[str] = field(default_factory=list)
    summary: str = ""
    params: dict[str, Any] = field(default_factory=dict)


def check_table(
    frame: pd.DataFrame, options: TrainOptions | None = None, *, path: str | Path | None = None
) -> Plan:
    """Decide how to train on a table, or say why that cannot be.

    Args:
        frame: the table.
        options: what was told.
        path: the file it came from, for messages with a line.

    Raises:
        TableError: no such target, too few rows, one class only, text where numbers were promised, no features.

    >>> table = pd.DataFrame({"size": range(40), "kind": ["a", "b"] * 20})
    >>> check_table(table, TrainOptions(target="kind")).summary
    'classification of kind (2 classes), 1 feature, 40 rows'
    """
    options = options or TrainOptions()
    frame = named_columns(frame)
    where = Path(path).name if path is not None else "the table"
    if len(frame) == 0:
        raise TableError(f"{where} has columns and no rows; expected at least {MIN_ROWS}", path=path)
    target = _target(frame, options.target, where)
    column = frame[target]
    warnings: list[str] = []
    present = column.notna()
    rows = int(present.sum())
    if rows < len(frame):
        warnings.append(f"{len(frame) - rows} of {len(frame)} rows have no {target!r} and are left out")
    if rows < MIN_ROWS:
        raise TableError(f"{where} has {rows} rows with a {target!r}; expected at least {MIN_ROWS}", column=target)
    task = _task(column, options.task, where, path)
    classes = classes_of(column) if task == "classification" else []
    _check_target(column, task, classes, where, path, warnings)
    learnable = frame[present]
    features = _features(learnable, target, path, warnings)
    if not features:
        raise TableError("; ".join([f"{where} has no column to learn from besides {target!r}", *warnings]))
    warnings += doubts.leaks(learnable, features, learnable[target], classes=bool(classes))
    summary = (
        f"{task} of {target}"
        + (f" ({len(classes)} classes)" if classes else "")
        + f", {len(features)} feature{'s' if len(features) > 1 else ''}, {rows} rows"
    )
    params = defaults(options, rows) | {"target": target, "task": task}
    return Plan(target, task, features, classes, rows, warnings, summary, params)


def defaults(options: TrainOptions, rows: int) -> dict[str, Any]:
    """Return every option, with values for those that were left to the data.

    The sizes come from trials on tables of 300 to 50,000 rows: small ones need many passes and much dropout,
    large ones a wider network and none.

    Args:
        options: what was told.
        rows: rows with a target.
    """
    small, medium, large = rows < 2_000, rows < 10_000, rows < 100_000
    chosen: dict[str, Any] = {
        "epochs": 60 if rows < 500 else 30 if medium else 15 if large else 8,
        "batch_size": 32 if rows < 500 else 64 if small else 128 if medium else 256 if large else 1024,
        "lr": 2e-3 if medium else 3e-3,
        "hidden": [128, 128] if medium else [256, 256],
        "dropout": 0.3 if small else 0.1 if medium else 0.0,
        "val_fraction": 0.15 if medium else 0.1,
        "patience": None,
    }
    told: dict[str, Any] = {name: getattr(options, name) for name in options.__struct_fields__}
    params: dict[str, Any] = {name: chosen.get(name) if value is None else value for name, value in told.items()}
    hidden = params["hidden"]
    params["hidden"] = [hidden, hidden] if isinstance(hidden, int) else list(hidden)
    # The learning rate falls to zero over all epochs: stopping is for runs that have clearly turned.
    params["patience"] = params["patience"] or max(10, params["epochs"] // 2)
    params["missing"] = list(params["missing"])
    return params


def classes_of(column: pd.Series) -> list[Any]:
    """Return the labels of a column as plain values, sorted.

    >>> classes_of(pd.Series([2, 1, None]))
    [1, 2]
    """
    kind = kind_of(column)
    if kind == "number":
        values = np.unique(as_numbers(column[column.notna()]))
        return [int(value) if float(value).is_integer() else float(value) for value in values]
    if kind == "boolean":
        return sorted({bool(value) for value in column.dropna()})
    return sorted(as_words(column).dropna().unique().tolist())


def _target(frame: pd.DataFrame, told: str | None, where: str) -> str:
    if told is not None:
        find_column(frame, told, where)
        return told
    for name in frame.columns:
        if str(name).lower() in TARGETS:
            return str(name)
    listed = ", ".join(map(str, frame.columns[:30])) + (", …" if len(frame.columns) > 30 else "")
    raise TableError(
        f"which column of {where} should be predicted? Pass target=; without it a column named y, target "
        f"or label is taken. Columns: {listed}{separated_otherwise(frame)}"
    )


def _task(column: pd.Series, told: str, where: str, path: str | Path | None) -> Task:
    kind = kind_of(column)
    name = str(column.name)
    if kind == "date":
        raise TableError(f"target {name!r} holds dates; turn them into numbers or classes first", column=name)
    if told == "classification":
        return "classification"
    if told == "regression":
        if kind == "text":
            words = as_words(column)
            row, value = _first_not_number(words)
            line = line_of_row(path, row) if path is not None else None
            place = f", line {line}" if line else f", row {row}"
            raise TableError(
                f"{where}{place}, column {name!r}: {value!r} is not a number, and regression needs numbers; "
                f"pass missing=({value!r},) if it stands for a missing value, or task='classification'",
                path=path,
                line=line,
                column=name,
            )
        return "regression"
    if kind in ("text", "boolean"):
        return "classification"
    values = as_numbers(column[column.notna()])
    whole = bool((values == np.round(values)).all())
    few = len(np.unique(values)) <= min(FEW_VALUES, max(2, len(values) // 10))
    return "classification" if whole and few else "regression"


def _first_not_number(words: pd.Series) -> tuple[int, str]:
    wrong = words.notna() & ~words.astype("str").str.match(cells.NUMBER)
    row = int(np.flatnonzero(wrong if wrong.any() else words.notna())[0])
    return row, str(words.iloc[row])


def _check_target(
    column: pd.Series, task: Task, classes: list[Any], where: str, path: str | Path | None, warnings: list[str]
) -> None:
    name = str(column.name)
    if task == "regression":
        values = as_numbers(column[column.notna()])
        if values.min() == values.max():
            raise TableError(
                f"target {name!r} in {where} is {values[0]:g} in every row: nothing to learn", column=name
            )
        return
    if len(classes) == 1:
        raise TableError(
            f"target {name!r} in {where} has one class only, {classes[0]!r}; expected two or more", column=name
        )
    rows = int(column.notna().sum())
    if len(classes) > MAX_CLASSES or len(classes) > rows // 2:
        hint = ": is it an id or free text?" + ("; pass task='regression'" if kind_of(column) == "number" else "")
        if kind_of(column) == "text":
            if doubt := doubts.written_otherwise(column):
                hint = f": {doubt}"
            elif stray := doubts.stray_words(column, path):
                hint = f": {stray[0]}"
        raise TableError(
            f"target {name!r} in {where} has {len(classes)} classes in {rows} rows, "
            f"at most {min(MAX_CLASSES, rows // 2)} can be learnt{hint}",
            column=name,
        )
    counts = as_words(column).value_counts()
    alone = [str(word) for word in counts.index[counts == 1]]
    if alone:
        more = f" and {len(alone) - 1} more" if len(alone) > 1 else ""
        warnings.append(f"class {alone[0]!r}{more} of {name!r} has one row only, which is used for training")


def _features(frame: pd.DataFrame, target: str, path: str | Path | None, warnings: list[str]) -> list[str]:
    """Choose the columns to learn from, and say which are left out and why."""
    kept: list[str] = []
    left_out: dict[str, list[str]] = {}
    row_numbers: list[str] = []
    for name in map(str, frame.columns):
        if name == target:
            continue
        column = frame[name]
        if kind_of(column) == "text":
            # Also of a column that is left out: a few words, or how they are written, may make its numbers texts.
            if doubt := doubts.written_otherwise(column):
                warnings.append(f"column {name!r} is read as text; {doubt}")
            else:
                warnings += doubts.stray_words(column, path)
        reason = _useless(column)
        if reason:
            left_out.setdefault(reason, []).append(name)
            continue
        kept.append(name)
        if _counts_rows(column):
            row_numbers.append(name)
        if kind_of(column) == "number":
            warnings += doubts.far_values(column)
    if len(kept) > len(row_numbers):
        for name in row_numbers:
            kept.remove(name)
            left_out.setdefault("counts the rows", []).append(name)
    for reason, names in left_out.items():
        warnings.append(f"left out {', '.join(map(repr, names))}: {reason}")
    return kept


def _useless(column: pd.Series) -> str:
    """Say why nothing can be learnt from a column, or return an empty string."""
    kind = kind_of(column)
    if kind == "empty":
        return "no values"
    present = column.dropna()
    different = int(present.nunique())
    if different == 1 and len(present) == len(column):
        return "the same value in every row"
    every = different == len(present) and len(present) >= MIN_ROWS
    if kind == "number" and every and ID_NAME.match(str(column.name)):
        return "looks like an id"
    if kind == "text" and every:
        return "looks like an id: every text is different"
    if kind == "text" and different > 20 and (different > len(present) // 2 or different > 5 * MAX_WORDS):
        return "too many different texts to learn from"
    return ""


def _counts_rows(column: pd.Series) -> bool:
    if not pd.api.types.is_integer_dtype(column.dtype) or column.isna().any() or len(column) < MIN_ROWS:
        return False
    values = column.to_numpy(dtype=np.int64)
    return bool(values[0] in (0, 1) and (np.diff(values) == 1).all() and not TIMELIKE.match(str(column.name)))
