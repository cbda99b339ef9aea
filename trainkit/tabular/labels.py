"""The classes of a target, each in its own type: as the table has them, as words, and as predictions."""

from __future__ import annotations

import decimal
from typing import Any, Literal

import msgspec
import numpy as np
import pandas as pd

from trainkit.errors import TableError
from trainkit.tabular.columns import as_numbers, as_words, value_kind, word

Label = bool | int | float | str
#: From here on a float may stand for several whole numbers.
FLOAT_EXACT = 2**53


class Intervals(msgspec.Struct, forbid_unknown_fields=True):
    """What classes are that ``pandas.cut`` made.

    Attributes:
        bounds: left and right of each class.
        closed: which of them belong to it.
    """

    bounds: list[tuple[int | float, int | float]]
    closed: Literal["left", "right", "both", "neither"]


def classes_of(column: pd.Series) -> list[Any]:
    """Return the labels of a column as plain values, sorted; of intervals as texts.

    Raises:
        TableError: labels of that type could not be predicted as what they are.

    >>> classes_of(pd.Series([2, 1, None])), classes_of(pd.Series([0.5, 1.0], dtype="category"))
    ([1, 2], [0.5, 1.0])
    """
    present = column[column.notna()]
    categories = isinstance(column.dtype, pd.CategoricalDtype)
    values = present.cat.remove_unused_categories().cat.categories.to_series() if categories else present
    kind = value_kind(column)
    if kind == "boolean":
        return sorted({bool(value) for value in values})
    if kind == "date":
        raise _refused(column, "dates", ".astype(str)")
    if kind == "number":
        return _numbers(values.rename(str(column.name)))
    if categories and intervals_of(column, []) is None and not all(isinstance(value, str) for value in values):
        raise _refused(column, "categories of several types", ".map(str)")
    return sorted(as_words(column).dropna().unique().tolist())


def _numbers(values: pd.Series) -> list[Any]:
    if pd.api.types.is_timedelta64_dtype(values.dtype):
        raise _refused(values, "time spans as classes", ".astype(str)")
    as_numbers(values, options_apply=True)  # names an infinite one
    labels = set(values.unique().tolist())
    if all(value == int(value) for value in labels):
        if all(isinstance(value, (int, np.integer)) or abs(value) < FLOAT_EXACT for value in labels):
            return sorted({int(value) for value in labels})
    elif any(isinstance(value, decimal.Decimal) for value in labels):
        raise _refused(values, "decimals as classes", ".astype(str)")
    return sorted({float(value) for value in labels})


def indices(column: pd.Series, labels: list[Any]) -> np.ndarray:
    """Return the position of each value among the labels, int64, (rows,).

    >>> indices(pd.Series([2.0, 1.0]), [1, 2]).tolist()
    [1, 0]
    """
    codes = pd.Categorical(as_words(column), categories=[word(label) for label in labels]).codes
    return np.asarray(codes, np.int64)


def intervals_of(column: pd.Series, words: list[str]) -> Intervals | None:
    """Return the intervals that these classes of a column are; None for other classes.

    Raises:
        TableError: intervals of something else than numbers.
    """
    if not isinstance(column.dtype, pd.CategoricalDtype):
        return None
    categories = column.cat.categories
    if not isinstance(categories, pd.IntervalIndex):
        return None
    if not pd.api.types.is_numeric_dtype(categories.left.dtype):
        raise _refused(column, "intervals of dates", ".astype(str)")
    by_word = {str(interval): (interval.left.item(), interval.right.item()) for interval in categories}
    return Intervals([by_word[each] for each in words], categories.closed)


def predictions(labels: list[Any], intervals: Intervals | None) -> pd.Series:
    """Return the labels as a column of predictions."""
    if intervals is not None:
        return pd.Series(pd.arrays.IntervalArray.from_tuples(intervals.bounds, closed=intervals.closed))
    return pd.Series(labels, dtype="str" if all(isinstance(label, str) for label in labels) else None)


def _refused(column: pd.Series, held: str, remedy: str) -> TableError:
    name = str(column.name)
    return TableError(
        f"target {name!r} holds {held}, which cannot be predicted as such; "
        f"turn them into texts: table[{name!r}] = table[{name!r}]{remedy}",
        column=name,
    )
