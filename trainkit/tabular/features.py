"""How to read a table: learnt from the training rows, kept with the model, applied to new rows.

A row becomes float32 numbers (standardised, NaN where missing) and int64 categories (0 for a word not
seen in training, 1 for missing).  The state is plain values only, so that a model file loads without
running code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, cast

import msgspec
import numpy as np
import pandas as pd

from trainkit.tabular.columns import as_dates, as_numbers, as_words, has_zone, kind_of, value_kind

UNSEEN, MISSING, FIRST_WORD = 0, 1, 2
BINS = 16
MAX_WORDS = 1000
FAR_SHARE = 0.001  # of the rows, at each end, may be far from all others
ID_NAME = re.compile(
    r"(?i:(.*[_ -])?(id|idx|index|key|uuid|guid)|row([_ -]?(nr|no|number))?|unnamed: ?\d+)$|.*[a-z]I[dD]$"
)
PARTS = ("time", "month", "day_of_week", "hour")


class Number(msgspec.Struct, tag="number", forbid_unknown_fields=True):
    """How a column of numbers, or a part of a date, is read.

    Attributes:
        name: the column.
        part: ``"value"``, or what is taken from a date.
        center, scale: of the standardisation, in the column's units.
        low, high: values beyond are read as missing.
        fill: the standardised value that stands in for a missing one.
        edges: standardised quantiles between which the network interpolates, ascending.
        kind: what the column held in training: ``"number"``, ``"duration"``, ``"date"`` or ``"zoned date"``; None
            in files of older versions.
    """

    name: str
    part: Literal["value", "time", "month", "day_of_week", "hour"]
    center: float
    scale: float
    low: float
    high: float
    fill: float
    edges: list[float]
    kind: Literal["number", "duration", "date", "zoned date"] | None = None


class Category(msgspec.Struct, tag="category", forbid_unknown_fields=True):
    """How a column of texts or booleans is read.

    Attributes:
        name: the column.
        words: what was seen in training; a word's index is its position + 2.
        missing: whether values were missing in training; if not, missing is as unseen.
        kind: what the column, or its categories, held in training; None in files of older versions.
    """

    name: str
    words: list[str]
    missing: bool
    kind: Literal["text", "boolean", "number", "date"] | None = None


class Features(msgspec.Struct, forbid_unknown_fields=True):
    """How all columns are read; made by :func:`learn`."""

    columns: list[Number | Category]

    @property
    def numbers(self) -> list[Number]:
        """The numeric ones, in the order of :meth:`encode`."""
        return [column for column in self.columns if isinstance(column, Number)]

    @property
    def categories(self) -> list[Category]:
        """The categorical ones, in the order of :meth:`encode`."""
        return [column for column in self.columns if isinstance(column, Category)]

    def encode(self, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Read rows whose columns are of the kinds of training: its own, or converted ones.

        Args:
            frame: the table; the order of its columns does not matter, and more columns do not.

        Returns:
            float32 numbers, (rows, numeric features), NaN where missing; int64 categories, (rows, categories).

        Raises:
            TableError: a column holds something else than in training.
        """
        numbers = np.empty((len(frame), len(self.numbers)), np.float32)
        for position, number in enumerate(self.numbers):
            values = feature_values(frame[number.name], number.part)
            values[(values < number.low) | (values > number.high)] = np.nan
            numbers[:, position] = (values - number.center) / number.scale
        categories = np.empty((len(frame), len(self.categories)), np.int64)
        for position, category in enumerate(self.categories):
            categories[:, position] = _indices(frame[category.name], category)
        return numbers, categories


def learn(
    frame: pd.DataFrame, names: list[str], ranges: Mapping[str, tuple[float, float]] | None = None
) -> Features:
    """Learn from the training rows how to read the named columns.

    Args:
        frame: the training rows.
        names: the columns to read, as :func:`trainkit.tabular.plan.check_table` chose them.
        ranges: of the whole table's numbers, and of its dates in seconds; those outside are read as missing;
            without it, those of the training rows.
    """
    ranges = ranges or {}
    columns: list[Number | Category] = []
    for name in names:
        column = frame[name]
        kind = kind_of(column)
        if kind == "number":
            number = _learn_number(name, "value", as_numbers(column), ranges.get(name))
            number.kind = "duration" if pd.api.types.is_timedelta64_dtype(column.dtype) else "number"
            columns.append(number)
        elif kind == "date":
            for part in PARTS:
                values = feature_values(column, part)
                if part == "time" or np.nanmin(values) < np.nanmax(values):
                    between = ranges.get(name) if part == "time" else (-np.inf, np.inf)
                    number = _learn_number(name, part, values, between)
                    number.kind = "zoned date" if has_zone(column) else "date"
                    columns.append(number)
        elif kind in ("text", "boolean"):
            counts = as_words(column).value_counts()
            words = [str(word) for word in counts.index[:MAX_WORDS]]
            held = value_kind(column)
            category = Category(name=name, words=sorted(words), missing=bool(column.isna().any()))
            category.kind = "text" if held == "empty" else held
            columns.append(category)
    return Features(columns=columns)


def limits(values: np.ndarray) -> tuple[float, float]:
    """Return the range outside of which a value is so rare and so isolated that it is better read as missing.

    Sentinels (0, -999, 1e9) and typing errors are isolated; the extremes of a long tail are not.  A value is
    outside if its distance from the median is at least twice that of the outermost value inside, on the linear
    scale and on a logarithmic one, and more than four robust standard deviations (quartile range / 1.349).  At
    most one row in a thousand is outside at each end.

    >>> low, high = limits(np.r_[np.linspace(9, 11, 5000), -999.0])
    >>> float(low), float(high)
    (9.0, inf)
    >>> low, high = limits(np.random.default_rng(0).normal(size=5000))
    >>> float(low), float(high)
    (-inf, inf)
    """
    values = values[~np.isnan(values)]
    most = int(len(values) * FAR_SHARE)
    if most == 0:
        return -np.inf, np.inf
    quarter, middle, three_quarters = np.quantile(values, [0.25, 0.5, 0.75])
    spread = (three_quarters - quarter) / 1.349
    if spread == 0:
        return -np.inf, np.inf
    parts = np.partition(values, [most, len(values) - 1 - most])
    lowest, highest = np.sort(parts[: most + 1]), np.sort(parts[-most - 1 :])[::-1]
    # Logarithms of positive values; of others, what is linear near the median and logarithmic far from it.
    is_positive = lowest[-1] > 0

    def outermost_inside(end: np.ndarray) -> float | None:
        distance = np.abs(end - middle)
        if is_positive:
            bent = np.abs(np.log(np.maximum(end, np.finfo(float).tiny)) - np.log(middle))
        else:
            bent = np.arcsinh(distance / spread)
        outside = (distance[:-1] >= 2 * distance[1:]) & (bent[:-1] >= 2 * bent[1:]) & (distance[:-1] > 4 * spread)
        return float(end[np.flatnonzero(outside)[-1] + 1]) if outside.any() else None

    low, high = outermost_inside(lowest), outermost_inside(highest)
    return -np.inf if low is None else low, np.inf if high is None else high


def _learn_number(name: str, part: str, values: np.ndarray, between: tuple[float, float] | None = None) -> Number:
    low, high = between or limits(values)
    kept = values[(values >= low) & (values <= high)]
    center, scale = float(kept.mean()), float(kept.std()) or 1.0
    scaled = (kept - center) / scale
    # Fewer bins where there are few rows, so that each is learnt from a dozen at least.
    bins = min(BINS, max(2, len(kept) // 12))
    edges = np.unique(np.quantile(scaled, np.linspace(0, 1, bins + 1)).astype(np.float32))
    if len(edges) == 1:
        edges = np.array([edges[0], edges[0] + 1])
    return Number(
        name=name,
        part=cast("Literal['value', 'time', 'month', 'day_of_week', 'hour']", part),
        center=center,
        scale=scale,
        low=low,
        high=high,
        fill=float(np.median(scaled)),
        edges=[float(edge) for edge in edges],
    )


def feature_values(column: pd.Series, part: str) -> np.ndarray:
    """Return a column of numbers, or a part of one of dates, as float64, (rows,), with NaN for missing."""
    if part == "value":
        return as_numbers(column).copy()
    if column.isna().all():
        return np.full(len(column), np.nan)
    dates = as_dates(column)
    if part == "time":
        seconds = dates.astype("datetime64[us]").astype("int64").to_numpy(float) / 1e6
        return np.where(dates.isna(), np.nan, seconds)
    return cast(np.ndarray, getattr(dates.dt, part).to_numpy(float, na_value=np.nan).copy())


def _indices(column: pd.Series, category: Category) -> np.ndarray:
    words = as_words(column)
    codes = pd.Index(category.words, dtype="object").get_indexer(pd.Index(words)).astype(np.int64) + FIRST_WORD
    codes[codes < FIRST_WORD] = UNSEEN
    if category.missing:
        codes[column.isna().to_numpy()] = MISSING
    return codes
