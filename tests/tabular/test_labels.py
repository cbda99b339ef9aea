"""Predictions have the type of the target; types of which that is not possible are refused before training."""

from __future__ import annotations

import datetime
import decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from trainkit.errors import TableError
from trainkit.tabular.fit import fit
from trainkit.tabular.model import TableModel, load_model
from trainkit.tabular.options import TrainOptions
from trainkit.tabular.plan import check_table

THREE = np.tile([0, 1, 2], 40)


def table_of(target: Any) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame({"x": THREE * 1.0, "noise": rng.normal(size=120), "y": target})


def pick(*labels: Any, dtype: Any = None) -> pd.Series:
    return pd.Series([labels[position] for position in THREE], dtype=dtype)


def trained(run: Any, table: pd.DataFrame, tmp_path: Path, **options: Any) -> TableModel:
    """A model as it comes back from its file."""
    fit(run, table, target="y", epochs=15, hidden=16, lr=0.03, **options).save(tmp_path / "m.pt")
    return load_model(tmp_path / "m.pt")


BIG = 2**53
LABELS: dict[str, tuple[pd.Series, type]] = {
    "small integers": (pick(3, 7, 5), int),
    "negative integers": (pick(-1, 0, 1), int),
    "integers beyond 2**53": (pick(BIG, BIG + 1, BIG + 3), int),
    "integers beyond 2**53 with gaps": (pick(BIG, BIG + 1, BIG + 3).astype("Int64"), int),
    "integers beyond 2**63": (pick(2**63, 2**63 + 1, 2**63 + 3, dtype="uint64"), int),
    "integers beyond 2**64": (pick(2**64, 2**64 + 1, 2**64 + 3, dtype=object), int),
    "integers as floats": (pick(1.0, 2.0, 3.0), int),
    "floats": (pick(0.5, 1.0, 2.0), float),
    "float32": (pick(0.1, 1.0, 2.5, dtype="float32"), float),
    "large floats": (pick(1e300, 2e300, 0.0), float),
    "whole decimals": (pick(*map(decimal.Decimal, ("1.0", "2", "30"))), int),
    "categories of integers": (pick(10, 9, 8, dtype="category"), int),
    "categories of large integers": (pick(BIG, BIG + 1, BIG + 3, dtype="category"), int),
    "categories of floats": (pick(0.5, 1.0, 2.0, dtype="category"), float),
    "categories of texts": (pick("b", "a", "c d", dtype="category"), str),
    "categories of booleans": (pick(True, False, True, dtype="category"), bool),
    "booleans": (pick(True, False, True), bool),
    "booleans as objects": (pick(True, False, True, dtype=object), bool),
    "nullable booleans": (pick(True, False, True, dtype="boolean"), bool),
    "texts with blanks": (pick(" a", "a ", "a"), str),
    "texts of numbers": (pick("007", "7", "7.0"), str),
    "texts of booleans": (pick("True", "true", "no"), str),
    "intervals": (pd.Series(pd.cut(THREE, [-1, 0, 1, 2])), pd.Interval),
    "intervals closed at the left": (pd.Series(pd.cut(THREE, [0, 1, 2, 3], right=False)), pd.Interval),
    "quantiles": (pd.Series(pd.qcut(THREE + np.linspace(0, 0.5, 120), 3)), pd.Interval),
}


@pytest.mark.parametrize(("target", "kind"), LABELS.values(), ids=LABELS)
def test_classes_are_predicted_in_their_own_type(run: Any, tmp_path: Path, target: pd.Series, kind: type) -> None:
    """The labels that the table has come back, equal and of their type, from the model file too."""
    table = table_of(target)
    model = trained(run, table, tmp_path, task="classification")
    predicted = model.predict(table)
    assert {type(label) for label in predicted.tolist()} == {kind}
    assert (predicted == target).mean() > 0.9
    assert predicted.name == "y"
    shares = model.predict_proba(table)
    assert set(shares.columns) == set(target.unique())
    assert (shares.idxmax(axis=1).to_numpy() == predicted.to_numpy()).all()
    assert model.predict(table.head(0)).dtype == predicted.dtype


def test_time_spans_are_predicted_as_time_spans(run: Any, tmp_path: Path) -> None:
    """A span is an amount, also where it has few values."""
    table = table_of(pd.Series(pd.to_timedelta(THREE * 10, unit="min")))
    model = trained(run, table, tmp_path)
    predicted = model.predict(table)
    assert model.target.task == "regression"
    assert predicted.dtype == "timedelta64[us]"
    assert (predicted - table["y"]).abs().max() < pd.Timedelta("3min")


def test_missing_labels_do_not_change_the_others(run: Any, tmp_path: Path) -> None:
    """Rows without a target are left out, and large integers in other rows keep their digits."""
    target = pick(BIG, BIG + 1, BIG + 3).astype("Int64")
    target[::7] = pd.NA
    model = trained(run, table_of(target), tmp_path)
    assert model.target.labels == [BIG, BIG + 1, BIG + 3]


@pytest.mark.parametrize(
    ("target", "task", "words"),
    [
        (pick(*map(pd.Timestamp, ("2020-01-01", "2020-01-02", "2020-01-03"))), "auto", "holds dates"),
        (pick(*(datetime.date(2020, 1, day) for day in (1, 2, 3)), dtype=object), "auto", "holds dates"),
        (pick(*map(pd.Timestamp, ("2020", "2021", "2022")), dtype="category"), "auto", "dates.*into texts"),
        (pick(*pd.to_timedelta([1, 2, 3], unit="s")), "classification", "time spans as classes.*into texts"),
        (pick(*map(decimal.Decimal, ("0.1", "0.2", "1"))), "classification", "decimals as classes.*into texts"),
        (pick(1, "1", "a", dtype="category"), "auto", r"categories of several types.*\.map\(str\)"),
        (
            pd.Series(pd.cut(pd.Series(pd.date_range("2020-01-01", periods=120)), 3)),
            "auto",
            r"intervals of dates.*\.astype\(str\)",
        ),
        (pd.Series(pd.arrays.IntervalArray.from_breaks(np.arange(121.0))), "auto", "Interval"),
        (pick(1 + 1j, 2, 3), "auto", "complex"),
    ],
)
def test_labels_of_other_types_are_refused_before_training(target: pd.Series, task: Any, words: str) -> None:
    """The message says what the target holds and how to go on."""
    with pytest.raises(TableError, match=words):
        check_table(table_of(target), TrainOptions(target="y", task=task))
