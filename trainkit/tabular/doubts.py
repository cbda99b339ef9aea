"""Warnings about a table before training on it: likely mistakes, each naming the column."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from trainkit.tabular import cells
from trainkit.tabular.columns import as_dates, as_numbers, as_words, kind_of
from trainkit.tabular.features import feature_values, limits
from trainkit.tabular.options import advice
from trainkit.tabular.read import line_of_row

LOOK_ROWS = 10_000  # which are looked at before all of them, or instead
STRAY_WORDS = 5
#: Digits that are a name and not an amount: postal codes, phone numbers, versions.
CODE = re.compile(r"\s*[-+]?0[0-9]|\s*\+[0-9]|[0-9]+(?:[-/ .][0-9]+){2,}|[0-9]{3,}[-/ ][0-9]{2,}")
#: How programs write a missing value, in lower case.
MISSING_WORDS = frozenset(
    {
        "nan",
        "-nan",
        "inf",
        "-inf",
        "+inf",
        "infinity",
        "-infinity",
        "na",
        "n/a",
        "#n/a",
        "none",
        "null",
        "<na>",
        "nat",
    }
    | {"nil", "missing", "unknown", "?", "-", "--", ".", "*", ""}
)
LEAK_VALUES = 100  # a column with more different ones tells rows apart, not classes
LEAK_CORRELATION = 1 - 1e-6  # what rounding leaves of 1
MOST = 0.9
GROUPS = r"[1-9][0-9]{0,2}(?:[,' ][0-9]{3})+(?:\.[0-9]+)?"
DECIMAL_COMMA = r"[+-]?[0-9]+,[0-9]+"
AMOUNT = rf"\s*[+-]?\s*[$€£¥]?\s*(?:{GROUPS}|(?:0|[1-9][0-9]*)(?:[.,][0-9]+)?)\s*[%$€£¥]?\s*"


def stray_words(column: pd.Series, path: str | Path | None, delimiter: str | None = None) -> list[str]:
    """Warn about a few words that make text of a column of numbers.

    Args:
        column: texts, with all rows of the table.
        path: the file it came from, for a message with a line.
        delimiter: of that file; without it the usual one.

    >>> stray_words(pd.Series(["1", "2", "n/a"], name="size"), None)[0][:67]
    "column 'size' is read as text because of 'n/a' in row 2; if it stan"
    >>> stray_words(pd.Series(["00501", "10001"], name="zip"), None)
    []
    """
    # Of texts Arrow counts, six times as fast as pandas does of objects.
    counts = (column if isinstance(column.dtype, pd.StringDtype) else as_words(column)).value_counts()
    numeric = counts.index.to_series().astype("str").str.match(cells.NUMBER).to_numpy()
    stray = [str(word) for word in counts.index[~numeric]]
    if not numeric.any() or len(stray) > STRAY_WORDS or any(CODE.match(word) for word in stray):
        return []
    if counts[numeric].sum() < 0.5 * counts.sum() and not all(_means_missing(word) for word in stray):
        return []
    if not stray:
        return [f"column {column.name!r} holds numbers as text and is read as words"]
    position = int(np.flatnonzero((as_words(column) == stray[0]).to_numpy())[0])
    line = line_of_row(path, int(column.index[position]), delimiter) if path is not None else None
    place = f"line {line}" if line else f"row {column.index[position] if path is not None else position}"
    message = f"column {column.name!r} is read as text because of {stray[0]!r} in {place}; "
    wrong = [word for word in stray if any(map(str.isdigit, word))]
    if wrong:  # a typing error, a unit, a bound: it does not stand for a missing value
        return [f"{message}if the column should hold numbers, write {', '.join(map(repr, wrong))} as a number"]
    footer = (
        "delete it if it is a footer; " if position == len(column) - 1 and not _means_missing(stray[0]) else ""
    )
    return [f"{message}{footer}if it stands for a missing value pass {advice('missing', stray)}"]


def _means_missing(word: str) -> bool:
    return word.strip().lower() in MISSING_WORDS


def written_otherwise(column: pd.Series) -> str:
    """Ask about numbers that are written with commas, signs of money or percent; an empty string where none are.

    Args:
        column: texts.

    >>> written_otherwise(pd.Series(["1,234", "5,678"]))
    "are '1,234' and the others numbers? Write them as 1234.5, without any other sign"
    >>> written_otherwise(pd.Series(["0,5", "1,25"]))
    "are '0,5' and the others numbers? Write a point, not a comma, before decimals"
    >>> written_otherwise(pd.Series(["007", "008"])), written_otherwise(pd.Series(["12 Main St", "4"]))
    ('', '')
    """
    words = pd.Series(as_words(column.iloc[:LOOK_ROWS]).dropna().unique()).astype("str")
    amounts = words.str.fullmatch(AMOUNT)
    odd = words[amounts & ~words.str.match(cells.NUMBER)]
    if not len(odd) or amounts.mean() < MOST:
        return ""
    decimals = odd.str.fullmatch(DECIMAL_COMMA).all() and not odd.str.fullmatch(GROUPS).all()
    advice = "a point, not a comma, before decimals" if decimals else "them as 1234.5, without any other sign"
    return f"are {odd.iloc[0]!r} and the others numbers? Write {advice}"


def far_values(column: pd.Series) -> tuple[tuple[float, float], list[str]]:
    """Return the range of a column's plain values, and a warning if others, far from it, are read as missing."""
    is_date = kind_of(column) == "date"
    values = feature_values(column, "time") if is_date else as_numbers(column, options_apply=True)
    low, high = limits(values)
    far = np.flatnonzero((values < low) | (values > high))
    if not len(far):
        return (low, high), []
    row = int(far[np.argmax(np.abs(values[far] - np.nanmedian(values)))])
    most = values[row]
    return (low, high), [
        f"column {column.name!r}: {len(far)} value{'s' if len(far) > 1 else ''} far from all others "
        f"(such as {as_dates(column.iloc[[row]]).iloc[0] if is_date else f'{most:g}'}) read as missing"
    ]


def leaks(frame: pd.DataFrame, features: list[str], target: pd.Series, *, classes: bool) -> list[str]:
    """Tell of columns that give the target away: each of their values goes with one class, or they are it, scaled.

    Args:
        frame: the table.
        features: the columns to look at.
        target: the column to predict, without missing values.
        classes: whether it has classes, not amounts.

    >>> table = pd.DataFrame({"alive": ["no", "yes"] * 20, "age": range(40), "y": [0, 1] * 20})
    >>> leaks(table, ["alive", "age"], table["y"], classes=True)
    ["column 'alive' alone tells 'y' in every row: drop it, unless it is known before 'y' is"]
    """
    tells = _tells_the_class if classes else _is_proportional
    looks = sorted({min(LOOK_ROWS, len(frame)), len(frame)})
    return [
        f"column {name!r} alone tells {target.name!r} in every row: drop it, unless it is known before "
        f"{target.name!r} is"
        for name in features
        if all(tells(frame[name].iloc[:rows], target.iloc[:rows]) for rows in looks)
    ]


def _tells_the_class(column: pd.Series, target: pd.Series) -> bool:
    """Whether each value goes with one class, and not only because few rows share one."""
    codes, values = pd.factorize(column, use_na_sentinel=False)
    if len(values) > min(LEAK_VALUES, len(column) // 5):
        return False
    classes, _ = pd.factorize(target)
    return len(np.unique(codes * (int(classes.max()) + 1) + classes)) == len(values)


def _is_proportional(column: pd.Series, target: pd.Series) -> bool:
    if kind_of(column) != "number":
        return False
    values, wanted = as_numbers(column), as_numbers(target)
    there = np.isfinite(values)
    if there.sum() < len(values) / 2:
        return False
    values, wanted = (each[there] - each[there].mean() for each in (values, wanted))
    size = float(np.linalg.norm(values) * np.linalg.norm(wanted))
    return size > 0 and abs(float(values @ wanted)) > LEAK_CORRELATION * size
