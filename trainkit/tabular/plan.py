"""What training on a table would do, decided before any job exists: target, task, features, defaults.

Neither torch nor the disk is touched here (except to find a line for a message).
"""

from __future__ import annotations

import re
from collections.abc import Callable
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
from trainkit.tabular.labels import classes_of
from trainkit.tabular.options import TrainOptions, advice
from trainkit.tabular.read import line_of_row

Task = Literal["regression", "classification"]
TARGETS = ("y", "target", "label")
#: What the column to predict is called in other tables; proposed, but not taken without asking.
USUAL_TARGETS = ("labels", "class", "outcome", "species", "survived", "price", "churn", "diagnosis")
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
        ranges: of the columns of numbers, and of dates in seconds; values outside are read as missing.
    """

    target: str
    task: Task
    features: list[str]
    classes: list[Any]
    rows: int
    warnings: list[str] = field(default_factory=list)
    summary: str = ""
    params: dict[str, Any] = field(default_factory=dict)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)


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
    target = _target(frame, options.target, where, path)
    if otherwise := separated_otherwise(frame, path):
        raise TableError(f"{where} has no column to learn from other than {target!r}{otherwise}", column=target)
    column = frame[target]
    warnings: list[str] = []
    present = column.notna()
    rows = int(present.sum())
    if rows < len(frame):
        warnings.append(f"{len(frame) - rows} of {len(frame)} rows have no {target!r} and are left out")
    if rows < MIN_ROWS:
        raise TableError(
            f"{where} has {rows} row{'' if rows == 1 else 's'} with a {target!r}; expected at least {MIN_ROWS}",
            column=target,
        )
    task = _task(column, options, where, path)
    classes = classes_of(column) if task == "classification" else []
    stray = doubts.stray_words(column, path, options.delimiter) if kind_of(column) == "text" else []
    _check_target(column, task, classes, where, stray, warnings)
    learnable = frame[present]
    ranges: dict[str, tuple[float, float]] = {}

    def stray_words(name: str) -> list[str]:
        # Of all rows: a footer such as "Total" makes text of a column and has no target.
        return doubts.stray_words(frame[name], path, options.delimiter)

    features = _features(learnable, target, stray_words, warnings, ranges)
    if not features:
        raise TableError("; ".join([f"{where} has no column to learn from other than {target!r}", *warnings]))
    warnings += doubts.leaks(learnable, features, learnable[target], classes=bool(classes))
    summary = (
        f"{task} of {target}"
        + (f" ({len(classes)} classes)" if classes else "")
        + f", {len(features)} feature{'s' if len(features) > 1 else ''}, {rows} rows"
    )
    params = defaults(options, rows) | {"target": target, "task": task}
    return Plan(target, task, features, classes, rows, warnings, summary, params, ranges)


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


def named_target(frame: pd.DataFrame) -> str | None:
    """Return the column that is predicted where none is named: one called y, target or label."""
    by_name = {str(name).lower(): str(name) for name in reversed(frame.columns)}
    return next((by_name[name] for name in TARGETS if name in by_name), None)


def proposed_target(frame: pd.DataFrame) -> str:
    """Return the column that is most likely to be predicted.

    That is :func:`named_target`, or else one with a name that is usual in well-known tables, or else the last one
    with few values and none missing, or else the last.

    >>> proposed_target(pd.DataFrame({"species": ["a", "b", "a"], "mass": [1.5, 2.5, 3.5]}))
    'species'
    """
    if (named := named_target(frame)) is not None:
        return named
    names = [str(name) for name in frame.columns]
    by_name = {name.lower(): name for name in reversed(names)}
    if usual := next((by_name[name] for name in USUAL_TARGETS if name in by_name), None):
        return usual
    few = max(2, min(20, len(frame) // 3))
    for position in reversed(range(len(names))):
        column = frame.iloc[:, position]
        if (
            getattr(column.dtype, "kind", "O") not in "fM"
            and 2 <= column.nunique() <= few
            and not column.isna().any()
        ):
            return names[position]
    return names[-1]


def _target(frame: pd.DataFrame, chosen: str | None, where: str, path: str | Path | None) -> str:
    if chosen is not None:
        find_column(frame, chosen, where, path)
        return chosen
    if (named := named_target(frame)) is not None:
        return named
    listed = ", ".join(map(str, frame.columns[:30])) + (", …" if len(frame.columns) > 30 else "")
    otherwise = separated_otherwise(frame, path)
    proposal = "" if otherwise else f", for example {advice('target', proposed_target(frame))}"
    raise TableError(
        f"which column of {where} should be predicted? Pass target={proposal}; without it a column named y, "
        f"target or label is taken. Columns: {listed}{otherwise}"
    )


def _task(column: pd.Series, options: TrainOptions, where: str, path: str | Path | None) -> Task:
    kind, told = kind_of(column), options.task
    name = str(column.name)
    if kind == "date":
        raise TableError(f"target {name!r} holds dates; turn them into numbers or classes first", column=name)
    if told == "classification":
        return "classification"
    if pd.api.types.is_timedelta64_dtype(column.dtype):
        return "regression"
    if told == "regression":
        if kind == "text":
            words = as_words(column)
            row, value = _first_not_number(words)
            line = line_of_row(path, row, options.delimiter) if path is not None else None
            place = f", line {line}" if line else f", row {row}"
            raise TableError(
                f"{where}{place}, column {name!r}: {value!r} is not a number, and regression needs numbers; "
                f"if it stands for a missing value pass {advice('missing', [value])}; "
                f"if these are classes pass {advice('task', 'classification')}",
                path=path,
                line=line,
                column=name,
            )
        return "regression"
    if kind in ("text", "boolean"):
        return "classification"
    values = as_numbers(column[column.notna()], options_apply=True)
    whole = bool((values == np.round(values)).all())
    few = len(np.unique(values)) <= min(FEW_VALUES, max(2, len(values) // 10))
    return "classification" if whole and few else "regression"


def _first_not_number(words: pd.Series) -> tuple[int, str]:
    wrong = words.notna() & ~words.astype("str").str.match(cells.NUMBER)
    row = int(np.flatnonzero(wrong if wrong.any() else words.notna())[0])
    return row, str(words.iloc[row])


def _check_target(
    column: pd.Series, task: Task, classes: list[Any], where: str, stray: list[str], warnings: list[str]
) -> None:
    name = str(column.name)
    if task == "regression":
        values = as_numbers(column[column.notna()], options_apply=True)
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
        hint = ": is it an id or free text?" + (
            f"; pass {advice('task', 'regression')}" if kind_of(column) == "number" else ""
        )
        if kind_of(column) == "text":
            if doubt := doubts.written_otherwise(column):
                hint = f": {doubt}"
            elif stray:
                hint = f": {stray[0]}"
        raise TableError(
            f"target {name!r} in {where} has {len(classes)} classes in {rows} rows, "
            f"at most {min(MAX_CLASSES, rows // 2)} can be learnt{hint}",
            column=name,
        )
    warnings += stray
    counts = as_words(column).value_counts()
    alone = [str(word) for word in counts.index[counts == 1]]
    if alone:
        more = f" and {len(alone) - 1} more" if len(alone) > 1 else ""
        warnings.append(f"class {alone[0]!r}{more} of {name!r} has one row only, which is used for training")


def _features(
    frame: pd.DataFrame,
    target: str,
    stray_words: Callable[[str], list[str]],
    warnings: list[str],
    ranges: dict[str, tuple[float, float]],
) -> list[str]:
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
                warnings += stray_words(name)
        reason = _useless(column)
        if reason:
            left_out.setdefault(reason, []).append(name)
            continue
        kept.append(name)
        if _counts_rows(column):
            row_numbers.append(name)
        if kind_of(column) in ("number", "date"):
            ranges[name], far = doubts.far_values(column)
            warnings += far
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
