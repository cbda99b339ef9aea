"""What the columns of a DataFrame hold, judged by their values: numbers, booleans, dates or texts.

Used wherever a table is looked at: when it is checked, learnt from, and predicted on.
"""

from __future__ import annotations

import datetime
import decimal
import numbers
from collections import Counter
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pandas as pd

from trainkit.errors import TableError, did_you_mean
from trainkit.tabular.filetypes import DELIMITED, kind_of_file
from trainkit.tabular.options import advice

Kind = Literal["number", "boolean", "date", "text", "empty"]


def named_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table with texts as column names, without copying its values.

    Raises:
        TableError: two columns share a name.

    >>> named_columns(pd.DataFrame({0: [1], "a": [2]})).columns.tolist()
    ['0', 'a']
    """
    names = [str(name) for name in frame.columns]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise TableError(f"column {twice[0]!r} is there twice; rename one", column=twice[0])
    return frame if names == list(frame.columns) else frame.set_axis(names, axis=1)


def find_column(frame: pd.DataFrame, name: str, where: str, path: str | Path | None = None) -> pd.Series:
    """Return a column by name, or raise an error that lists the columns.

    Args:
        frame: the table.
        name: of the column.
        where: the table, in words.
        path: the file it came from, for advice.

    Raises:
        TableError: there is no such column.
    """
    if name in frame.columns:
        return frame[name]
    known = [str(column) for column in frame.columns]
    hint = did_you_mean(name, known)
    listed = ", ".join(known[:30]) + (f", … ({len(known)} in all)" if len(known) > 30 else "")
    otherwise = separated_otherwise(frame, path)
    raise TableError(f"column {name!r} is not in {where}{hint or '.'} Columns: {listed}{otherwise}", column=name)


def separated_otherwise(frame: pd.DataFrame, path: str | Path | None) -> str:
    """Return a hint for a file that was read as one column because another character separates its fields."""
    if len(frame.columns) != 1:
        return ""
    for mark in ";\t|":
        if mark in str(frame.columns[0]):
            how = (
                f"pass {advice('delimiter', mark)}"
                if path is not None and kind_of_file(path) in DELIMITED
                else f"read it with pandas.read_csv(..., sep={mark!r})"
            )
            return f". This is one column; if {mark!r} separates its fields, {how}"
    return ""


def kind_of(column: pd.Series) -> Kind:
    """Tell what a column holds.

    Raises:
        TableError: it mixes kinds, or holds something that is none of them.

    >>> kind_of(pd.Series([1, None])), kind_of(pd.Series(["a"])), kind_of(pd.Series([None]))
    ('number', 'text', 'empty')
    """
    if column.isna().all():
        return "empty"
    dtype: Any = column.dtype.categories.dtype if isinstance(column.dtype, pd.CategoricalDtype) else column.dtype
    if pd.api.types.is_bool_dtype(dtype):
        return "boolean"
    if isinstance(column.dtype, pd.CategoricalDtype):
        return "text"  # numbers as categories are names of things, not amounts
    if pd.api.types.is_complex_dtype(dtype):
        raise TableError(
            f"column {column.name!r} holds complex numbers; expected real ones", column=str(column.name)
        )
    if pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_timedelta64_dtype(dtype):
        return "number"
    if pd.api.types.is_datetime64_any_dtype(dtype) or isinstance(dtype, pd.PeriodDtype):
        return "date"
    if isinstance(dtype, pd.StringDtype):
        return "text"
    return _kind_of_objects(column)


def _kind_of_objects(column: pd.Series) -> Kind:
    first: Kind | None = None
    for row, value in enumerate(column.array):
        if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and value != value):
            continue
        kind = _kind_of_value(value)
        if kind is None:
            raise TableError(
                f"column {column.name!r}, row {row}: {type(value).__name__} {value!r:.60} is not one of "
                "number, text, boolean or date",
                column=str(column.name),
            )
        if first is not None and kind != first:
            raise TableError(
                f"column {column.name!r}, row {row}: {value!r:.60} is a {kind} after {first}s; "
                "expected one kind in a column, and None for a missing value",
                column=str(column.name),
            )
        first = kind
    return first or "empty"


def _kind_of_value(value: object) -> Kind | None:
    if isinstance(value, (bool, np.bool_)):
        return "boolean"
    if isinstance(value, (numbers.Real, decimal.Decimal)):
        return "number"
    if isinstance(value, str):
        return "text"
    if isinstance(value, (datetime.date, np.datetime64)):
        return "date"
    return None


def as_numbers(column: pd.Series, *, options_apply: bool = False) -> np.ndarray:
    """Return float64 values, (rows,), with NaN for missing.

    Args:
        column: of numbers or time spans.
        options_apply: whether the table is read for training, where an error may advise ``missing=``.

    Raises:
        TableError: a value is not a number, or is infinite; its row is named.
    """
    name = str(column.name)
    if pd.api.types.is_timedelta64_dtype(column.dtype):
        return cast(np.ndarray, column.dt.total_seconds().to_numpy(float))
    try:
        values = column.to_numpy(dtype=float, na_value=np.nan)
    except (TypeError, ValueError):
        parsed = pd.to_numeric(column.astype("str"), errors="coerce")
        wrong = np.flatnonzero(parsed.isna() & column.notna())
        row = int(wrong[0]) if len(wrong) else 0
        raise TableError(
            f"column {name!r}, row {row}: {column.iloc[row]!r} is not a number; expected numbers", column=name
        ) from None
    infinite = np.flatnonzero(np.isinf(values))
    if len(infinite):
        words = [str(value) for value in np.unique(values[infinite])]
        otherwise = f", or pass {advice('missing', words)}" if options_apply else ""
        raise TableError(
            f"column {name!r}, row {int(infinite[0])}: {values[infinite[0]]} is infinite; "
            f"replace it by a number or leave it missing{otherwise}",
            column=name,
        )
    return cast(np.ndarray, values)


def value_kind(column: pd.Series) -> Kind:
    """Return what the values of a column are: of a categorical one, what its categories are.

    >>> value_kind(pd.Series([1, 2], dtype="category")), kind_of(pd.Series([1, 2], dtype="category"))
    ('number', 'text')
    """
    if not isinstance(column.dtype, pd.CategoricalDtype) or column.isna().all():
        return kind_of(column)
    try:
        return kind_of(pd.Series(column.cat.remove_unused_categories().cat.categories, name=column.name))
    except TableError:
        return "text"  # intervals, or several kinds, which differ in how they are written


def has_zone(column: pd.Series) -> bool:
    """Whether dates have a time zone."""
    if column.dtype == object:
        first = column[column.notna()].head(1).tolist()
        return bool(first) and getattr(first[0], "tzinfo", None) is not None
    if isinstance(column.dtype, pd.ArrowDtype):
        return getattr(column.dtype.pyarrow_dtype, "tz", None) is not None
    return isinstance(column.dtype, pd.DatetimeTZDtype)


def as_dates(column: pd.Series) -> pd.Series:
    """Return datetime64 values without zone (UTC where there was one)."""
    if isinstance(column.dtype, pd.PeriodDtype):
        return cast(pd.Series, column.dt.to_timestamp())
    if isinstance(column.dtype, pd.ArrowDtype):
        column = column.astype(object)
    if not pd.api.types.is_datetime64_any_dtype(column.dtype):
        try:
            column = pd.to_datetime(column)
        except (ValueError, TypeError) as error:
            name = str(column.name)
            raise TableError(f"column {name!r}: {error}; expected dates", column=name) from None
    return column.dt.tz_convert("UTC").dt.tz_localize(None) if has_zone(column) else column


def as_words(column: pd.Series) -> pd.Series:
    """Return texts (or booleans and numbers as texts), with missing values kept missing.

    >>> as_words(pd.Series([2.0, None, 0.5])).tolist(), as_words(pd.Series([True])).tolist()
    (['2', nan, '0.5'], ['True'])
    """
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.rename_categories([word(value) for value in column.cat.categories]).astype("object")
    if isinstance(column.dtype, pd.StringDtype):
        return column.astype("object")
    if pd.api.types.is_numeric_dtype(column.dtype):  # booleans too
        # Few are different, as a rule: each is turned into a text once.
        codes, values = pd.factorize(column)
        words = np.array([*map(word, values.tolist()), np.nan], dtype=object)
        return pd.Series(words[codes], index=column.index, name=column.name)
    return column.astype("object").map(word, na_action="ignore")


def word(value: Any) -> str:
    """Return a value as a text: 2.0 in a column that became float because of a missing value is the word "2".

    >>> word(2.0), word(0.5), word(True), word(2**53 + 1)
    ('2', '0.5', 'True', '9007199254740993')
    """
    if isinstance(value, (float, np.floating)):
        return str(int(value)) if float(value).is_integer() else str(float(value))
    if isinstance(value, decimal.Decimal) and value == value.to_integral_value():
        return str(int(value))
    return str(value)
