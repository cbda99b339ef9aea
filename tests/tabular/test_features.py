"""How a table is read for the network: learnt on some rows, applied to others."""

from __future__ import annotations

import msgspec
import numpy as np
import pandas as pd

from trainkit.tabular.features import Category, Features, Number, learn


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
