"""How a table is read for the network: learnt on some rows, applied to others."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import pandas as pd
import pytest

from trainkit.tabular.features import Category, Features, Number, learn, limits
from trainkit.tabular.plan import check_table


def test_words_get_the_index_they_had_in_training() -> None:
    """0 is a word not seen, 1 is missing where training had missing ones, the rest follow in order."""
    train = pd.DataFrame({"word": ["b", "a", None], "flag": [True, False, True]})
    features = learn(train, ["word", "flag"])
    _, indices = features.encode(pd.DataFrame({"flag": [False, True, None], "word": ["b", "new", None]}))
    assert indices.tolist() == [[3, 2], [0, 3], [1, 0]]


def test_numbers_are_standardised_and_slips_are_missing() -> None:
    """Missing values and values far from all of training's become NaN; others are in standard deviations."""
    values = np.random.default_rng(0).normal(100, 10, 5000)
    values[7] = -999
    features = learn(pd.DataFrame({"x": values}), ["x"])
    numbers, _ = features.encode(pd.DataFrame({"x": [100.0, 110.0, -999.0, None]}))
    assert np.allclose(numbers[:2, 0], [0, 1], atol=0.05)
    assert np.isnan(numbers[2:, 0]).all()
    (number,) = features.numbers
    assert sorted(number.edges) == number.edges
    assert len(number.edges) == 17


def test_dates_become_time_and_the_parts_that_vary() -> None:
    """A column of days gives time, month and day of the week, but no hour."""
    days = pd.DataFrame({"day": pd.date_range("2020-01-01", periods=400)})
    features = learn(days, ["day"])
    assert [number.part for number in features.numbers] == ["time", "month", "day_of_week"]
    numbers, _ = features.encode(pd.DataFrame({"day": [pd.Timestamp("2020-01-01"), pd.NaT]}))
    assert numbers[0, 0] < -1.7
    assert np.isnan(numbers[1]).all()


def test_the_state_is_plain_values() -> None:
    """It survives a round trip through plain lists, dicts, numbers and texts."""
    features = learn(pd.DataFrame({"x": [1.0, 2.0], "w": ["a", "b"]}), ["x", "w"])
    plain = msgspec.to_builtins(features)
    assert msgspec.convert(plain, Features) == features
    assert [type(column) for column in features.columns] == [Number, Category]


def test_large_offsets_keep_their_differences() -> None:
    """Values are standardised before they become float32, so that 10^9 + 1 and 10^9 + 2 differ."""
    table = pd.DataFrame({"x": 1e9 + np.arange(20)})
    numbers, _ = learn(table, ["x"]).encode(table)
    assert len(np.unique(numbers)) == 20


PLAIN: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda rng, rows: rng.normal(size=rows),
    "positive normal": lambda rng, rows: rng.normal(50, 2, rows),
    "uniform": lambda rng, rows: rng.random(rows),
    "exponential": lambda rng, rows: rng.exponential(size=rows),
    "lognormal": lambda rng, rows: rng.lognormal(size=rows),
    "wide lognormal": lambda rng, rows: rng.lognormal(0, 3, rows),
    "centred lognormal": lambda rng, rows: rng.lognormal(size=rows) - 1.6,
    "laplace": lambda rng, rows: rng.laplace(size=rows),
    "student": lambda rng, rows: rng.standard_t(5, rows),
    "poisson": lambda rng, rows: rng.poisson(3, rows),
    "geometric": lambda rng, rows: rng.geometric(0.2, rows),
    "many zeros": lambda rng, rows: np.where(rng.random(rows) < 0.4, 0, rng.lognormal(2, 1.5, rows)),
    "two groups": lambda rng, rows: np.where(
        rng.random(rows) < 0.5, rng.normal(0, 1, rows), rng.normal(30, 1, rows)
    ),
    "few whole numbers": lambda rng, rows: rng.integers(1, 6, rows),
}


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("rows", [1_000, 20_000])
def test_no_value_of_plain_numbers_is_far_from_all_others(name: str, rows: int) -> None:
    """The extremes of a distribution belong to it, however long its tails."""
    rng = np.random.default_rng(0)
    found = [limits(PLAIN[name](rng, rows).astype(float)) for _ in range(40)]
    assert found.count((-np.inf, np.inf)) == len(found), found


@pytest.mark.parametrize(
    ("name", "sentinel"),
    [
        *((name, sentinel) for name in PLAIN if name != "wide lognormal" for sentinel in (-999.0, 1e9)),
        ("positive normal", 0.0),
        ("few whole numbers", 99.0),
        ("few whole numbers", -9.0),
        ("normal", -99.0),
        ("wide lognormal", 1e12),
    ],
)
@pytest.mark.parametrize("count", [1, 5])
def test_a_sentinel_is_far_from_all_others(name: str, sentinel: float, count: int) -> None:
    """Once or a few times; exactly the sentinel is outside."""
    values = PLAIN[name](np.random.default_rng(1), 5_000).astype(float)
    values[:count] = sentinel
    low, high = limits(values)
    assert ((values < low) | (values > high)).sum() == count
    assert not low <= sentinel <= high


def test_a_date_far_from_all_others_is_reported_and_read_as_missing() -> None:
    """1900-01-01 is how some programs write a missing date; a month is never far from the others."""
    dates = pd.Series(pd.date_range("2021-06-01", periods=3000, freq="17min"))
    dates[5] = pd.Timestamp("1900-01-01")
    table = pd.DataFrame({"when": dates, "y": np.random.default_rng(0).normal(size=3000)})
    plan = check_table(table)
    assert plan.warnings == [
        "column 'when': 1 value far from all others (such as 1900-01-01 00:00:00) read as missing"
    ]
    features = learn(table, plan.features, plan.ranges)
    numbers, _ = features.encode(table)
    assert np.isnan(numbers).sum(0).tolist()[0] == 1
    assert not np.isnan(numbers[:, 1:]).any()


def test_a_sentinel_is_read_as_missing_in_all_rows() -> None:
    """Also where no training row has it: what the warning says is of the whole table."""
    values = np.random.default_rng(0).normal(50, 2, 3000)
    values[-1] = -999
    table = pd.DataFrame({"a": values, "y": values * 2})
    plan = check_table(table)
    assert "'a': 1 value far from all others (such as -999) read as missing" in plan.warnings[0]
    features = learn(table[:-1], ["a"], plan.ranges)
    numbers, _ = features.encode(table)
    assert np.isnan(numbers).sum() == 1
    assert np.isnan(numbers[-1, 0])
