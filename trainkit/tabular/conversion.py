"""New rows in the kinds that the model was trained on: converted exactly, or refused with advice.

A column often comes back in another form than it had in training: True as 1, the code 007 as 7, a date as seconds.
Read as they are, such values would match nothing that the model knows, and it would predict without them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from trainkit.errors import TableError
from trainkit.tabular import cells
from trainkit.tabular.columns import as_dates, as_numbers, as_words, find_column, has_zone, value_kind
from trainkit.tabular.features import MAX_WORDS, Category, Features, Number
from trainkit.tabular.frames import to_frame

_SHOWN_WORDS = 5
_TRUE_AND_FALSE = {"true": True, "false": False, "1": True, "0": False}
_DATES = {"date": "dates", "zoned date": "dates with a time zone"}


def convert(frame: pd.DataFrame, features: Features) -> pd.DataFrame:
    """Return the columns that a model needs, each of the kind that it had in training.

    Args:
        frame: the new rows.
        features: how the model reads a table.

    Raises:
        TableError: a column is missing, or its values are of another kind and cannot be converted exactly, or none
            of its texts was seen in training.
    """
    needed = list(dict.fromkeys(feature.name for feature in features.columns))
    absent = [name for name in needed if name not in frame.columns]
    if absent:
        find_column(frame, absent[0], f"the table (the model needs {', '.join(needed)})")
    converted = {}
    for feature in features.columns:
        if feature.name not in converted:
            column = frame[feature.name]
            if column.dtype == object:
                column = column.infer_objects()  # a row of a table has objects
            if isinstance(column.dtype, pd.IntervalDtype):
                column = column.astype("category")  # as pandas.cut makes it
            if isinstance(feature, Category):
                converted[feature.name] = _as_category(column, feature)
            else:
                converted[feature.name] = _READ_AS[_kind_of_number(feature)](column, feature)
    return pd.DataFrame(converted, index=frame.index, copy=False)


def _kind_of_number(number: Number) -> str:
    """The kind that a column had in training; models from before it was kept did not tell kinds of dates apart."""
    return number.kind or ("number" if number.part == "value" else "any date")


# --- numbers ----------------------------------------------------------------------------------------


def _as_number(column: pd.Series, number: Number) -> pd.Series:
    given = value_kind(column)
    if given == "empty":
        return pd.Series(np.nan, column.index, float)
    if _is_duration(column):
        raise _refused(
            column, "time spans", "numbers; convert them as for training, for example with .dt.total_seconds()"
        )
    if given == "text":
        meaning = _meaning(column)
        if meaning is None or not pd.api.types.is_numeric_dtype(meaning.dtype) or meaning.dtype.kind == "b":
            raise _refused(
                column, "texts", f"numbers{_advice_on_numbers(column)}", first=_first_not_number(column)
            )
        column = meaning
    elif given not in ("number", "boolean"):
        raise _refused(column, f"{given}s", "numbers")
    column = _without_categories(column)
    if column.dtype == object or given == "boolean":
        column = column.astype("Float64" if column.hasnans else float)
    values = as_numbers(column)
    present = values[~np.isnan(values)]
    if len(present) > 1 and ((present < number.low) | (present > number.high)).all():
        raise TableError(
            f"column {column.name!r}: all values, such as {present[0]:g}, are far outside the range of training; "
            "are they in another unit? To predict without them, leave them missing",
            column=str(column.name),
        )
    return column


def _as_duration(column: pd.Series, number: Number) -> pd.Series:
    given = value_kind(column)
    if given == "empty":
        return pd.Series([pd.NaT] * len(column), column.index, "timedelta64[us]")
    if not _is_duration(column):
        raise _refused(column, f"{given}s", "time spans; convert them with pandas.to_timedelta(column, unit=...)")
    return column


def _as_date(*kinds: str) -> Callable[[pd.Series, Number], pd.Series]:
    def read(column: pd.Series, number: Number) -> pd.Series:
        given = value_kind(column)
        expected = " or ".join(_DATES[kind] for kind in kinds)
        if given == "empty":
            return pd.Series([pd.NaT] * len(column), column.index, "datetime64[us]")
        if given == "text":
            meaning = _meaning(column)
            if meaning is None or not pd.api.types.is_datetime64_any_dtype(meaning.dtype):
                how = "; write them as 2024-12-31, or convert them with pandas.to_datetime(column, format=...)"
                raise _refused(column, "texts", expected + how, first=_first_not_date(column))
            column = meaning
        elif given != "date":
            how = "; convert them with pandas.to_datetime(column, unit='s'), or 'ms'" if given == "number" else ""
            raise _refused(column, f"{given}s", expected + how)
        column = _without_categories(column)
        zone = "zoned date" if has_zone(column) else "date"
        if zone not in kinds:
            how = ".dt.tz_convert(None)" if zone == "zoned date" else ".dt.tz_localize('UTC')"
            raise _refused(column, _DATES[zone], f"{expected}; convert them as for training, for example by {how}")
        return as_dates(column)

    return read


_READ_AS: dict[str, Callable[[pd.Series, Any], pd.Series]] = {
    "number": _as_number,
    "duration": _as_duration,
    "date": _as_date("date"),
    "zoned date": _as_date("zoned date"),
    "any date": _as_date("date", "zoned date"),
}


# --- categories -------------------------------------------------------------------------------------


def _as_category(column: pd.Series, category: Category) -> pd.Series:
    trained, given = category.kind or _kind_by_words(category), value_kind(column)
    if given == "empty":
        return pd.Series(None, column.index, object, name=column.name)
    if trained == "boolean":
        return _as_boolean(column, given)
    words = as_words(column)
    present = words[words.notna()]
    is_seen = present.isin(category.words)
    if given != trained and not is_seen.all():
        first = column[column.notna()][~is_seen.to_numpy()].head(1).tolist()[0]
        examples = ", ".join(map(repr, category.words[:_SHOWN_WORDS]))
        advice = " with dtype=str" if trained == "text" else ""
        raise _refused(
            column, f"{given}s", f"{trained}s, such as {examples}; read it as for training{advice}", first=first
        )
    if len(category.words) < MAX_WORDS:  # else training has left out the rare ones
        _check_seen(present, is_seen, category)
    return column


def _as_boolean(column: pd.Series, given: str) -> pd.Series:
    values = as_words(column)
    if given in ("text", "number"):
        values = values.map(lambda text: _TRUE_AND_FALSE.get(text.strip().lower(), text), na_action="ignore")
    odd = ~values.map(str, na_action="ignore").isin(["True", "False"]) & column.notna()
    if odd.any():
        expected = "True and False; map the values to them, for example by column == 'yes'"
        raise _refused(column, f"{given}s", expected, first=column[odd].head(1).tolist()[0])
    return values


def _check_seen(present: pd.Series, is_seen: pd.Series, category: Category) -> None:
    """Refuse a column of which nothing is known; warn if that is so of a single row, or of most."""
    unseen = int((~is_seen).sum())
    if 2 * unseen <= len(present):
        return
    first = present[~is_seen].iloc[0]
    examples = ", ".join(map(repr, category.words[:_SHOWN_WORDS]))
    if unseen == len(present) > 1:
        raise TableError(
            f"column {category.name!r}: training has seen none of its values, such as {first!r}; it has seen "
            f"{examples}. Write them as in training; to predict without them, leave them missing",
            column=category.name,
        )
    warnings.warn(
        f"column {category.name!r}: training has not seen {unseen} of {len(present)} values, such as {first!r}; "
        f"it has seen {examples}. They are predicted as unknown",
        stacklevel=6,
    )


def _kind_by_words(category: Category) -> str:
    """The kind of a column of a model from before it was kept."""
    return "boolean" if set(category.words) <= {"True", "False"} else "text"


# --- details ----------------------------------------------------------------------------------------


def _is_duration(column: pd.Series) -> bool:
    return bool(pd.api.types.is_timedelta64_dtype(_without_categories(column).dtype))


def _without_categories(column: pd.Series) -> pd.Series:
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.astype(column.dtype.categories.dtype)
    return column


def _meaning(column: pd.Series) -> pd.Series | None:
    """Return what texts mean in a CSV file: numbers, booleans, dates, or None for texts."""
    texts = [None if pd.isna(text) else str(text) for text in column]
    meaning = cells.infer(pa.chunked_array([pa.array(texts, pa.string())]))
    if pa.types.is_string(meaning.type):
        return None
    series = to_frame(pa.table({"": meaning})).iloc[:, 0]
    series.index, series.name = column.index, column.name
    return series


def _first_not_number(column: pd.Series) -> Any:
    return _first_not(column, cells.NUMBER)


def _first_not_date(column: pd.Series) -> Any:
    return _first_not(column, cells.DATE)


def _first_not(column: pd.Series, pattern: str) -> Any:
    texts = column[column.notna()].astype(str)
    odd = texts[~texts.str.match(pattern)]
    return (odd if len(odd) else texts).iloc[0]


def _advice_on_numbers(column: pd.Series) -> str:
    first = str(_first_not_number(column))
    return "; write a point, not a comma" if "," in first else ""


def _refused(column: pd.Series, found: str, expected: str, *, first: Any = None) -> TableError:
    value = column[column.notna()].head(1).tolist()[0] if first is None else first
    shown = repr(value) if isinstance(value, (str, bool, int, float)) else str(value)
    return TableError(
        f"column {column.name!r} holds {found} ({shown:.60}); the model needs {expected}", column=str(column.name)
    )
