"""DataFrames made of Arrow tables, and words in DataFrames that stand for missing values."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa

from trainkit.tabular import cells
from trainkit.tabular.grammar import in_parallel


def to_frame(table: pa.Table) -> pd.DataFrame:
    """Turn Arrow columns into pandas columns without losing digits, missing values or types."""
    nullable = {pa.bool_(): pd.BooleanDtype()}
    for bits in (8, 16, 32, 64):
        nullable[getattr(pa, f"int{bits}")()] = getattr(pd, f"Int{bits}Dtype")()
        nullable[getattr(pa, f"uint{bits}")()] = getattr(pd, f"UInt{bits}Dtype")()

    def convert(column: pa.ChunkedArray) -> pd.Series:
        kind = column.type
        if pa.types.is_null(kind):
            column = column.cast(pa.float64())
        elif pa.types.is_date(kind):
            column = column.cast(pa.timestamp("s"))
        elif pa.types.is_time(kind):
            column = column.cast(pa.string())
        # A mapper, even one that does not know the type, makes Python's texts of Arrow's: 90 ms for a million.
        mapper = nullable.get if column.null_count and column.type in nullable else None
        series: pd.Series = column.to_pandas(types_mapper=mapper)
        return series

    columns = dict(zip(table.column_names, in_parallel(convert, table.columns), strict=True))
    # Not copied into one block per type: that would take as long, and as much memory, as all before it.
    return pd.DataFrame(columns, index=pd.RangeIndex(table.num_rows), copy=False)


def with_missing(frame: pd.DataFrame, words: Iterable[str]) -> pd.DataFrame:
    """Return a table in which these words, and numbers and dates that are written so, are missing values.

    What is left of a column of texts is read as in a CSV file: numbers as numbers.

    >>> with_missing(pd.DataFrame({"a": ["1.5", "NA"], "b": [1, -9]}), ["NA", "-9"]).dtypes.astype(str).tolist()
    ['float64', 'Int64']
    """
    listed = list(words)
    columns = [frame.iloc[:, position] for position in range(frame.shape[1])] if listed else []
    found = [_stands_for_missing(column, listed) for column in columns]
    if not any(is_missing.any() for is_missing in found):
        return frame
    made = pd.DataFrame(
        {
            position: _without(column, is_missing) if is_missing.any() else column
            for position, (column, is_missing) in enumerate(zip(columns, found, strict=True))
        },
        copy=False,
    ).set_axis(frame.columns, axis=1)
    made.attrs = dict(frame.attrs)
    return made


def _stands_for_missing(column: pd.Series, words: list[str]) -> np.ndarray:
    dtype = column.dtype
    if pd.api.types.is_object_dtype(dtype):
        texts = map(str, column.array)  # of dates and decimal numbers, too
        return np.array([text in words or text.strip() in words for text in texts], bool)
    if isinstance(dtype, pd.CategoricalDtype):
        return cast(
            np.ndarray, column.isin([each for each in dtype.categories if str(each) in words]).to_numpy(bool)
        )
    if pd.api.types.is_string_dtype(dtype):
        return cast(np.ndarray, column.isin(words).fillna(False).to_numpy(bool))
    found = np.zeros(len(column), bool)
    for word in words:
        value = _as_value(word, dtype)
        if value is not None:
            found |= (column == value).fillna(False).to_numpy(bool)
    return found


def _as_value(word: str, dtype: Any) -> Any:
    """Return what a word is in a column of numbers or dates, or None where it cannot be there."""
    if pd.api.types.is_bool_dtype(dtype):
        return None
    if pd.api.types.is_numeric_dtype(dtype):
        number = pd.to_numeric(word, errors="coerce")
        if pd.isna(number):
            return None
        # As the column holds it: -99.9 of 32 bits is another number than of 64.
        return dtype.type(number) if isinstance(dtype, np.dtype) and dtype.kind == "f" else number
    if pd.api.types.is_datetime64_any_dtype(dtype) and re.match(r"[0-9]{4}-", word):
        date = pd.to_datetime(word, errors="coerce")
        if pd.isna(date) or (zone := getattr(dtype, "tz", None)) is None:
            return None if pd.isna(date) or date.tzinfo is not None else date
        return date.tz_localize(zone) if date.tzinfo is None else date
    return None


def _without(column: pd.Series, is_missing: np.ndarray) -> pd.Series:
    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return column.cat.remove_categories(list(column[is_missing].unique()))
    if isinstance(dtype, np.dtype) and dtype.kind in "iu":
        nullable: Any = dtype.name.replace("i", "I").replace("u", "U")
        return column.astype(nullable).mask(is_missing)
    rest = column.mask(is_missing)
    if pd.api.types.is_object_dtype(dtype):
        rest = rest.infer_objects()
    if not pd.api.types.is_string_dtype(rest.dtype) and not pd.api.types.is_object_dtype(rest.dtype):
        return rest
    texts = [None if pd.isna(text) else text for text in rest]
    if not all(text is None or isinstance(text, str) for text in texts):
        return rest
    meaning = cells.infer(pa.chunked_array([pa.array(texts, pa.string())]))
    if pa.types.is_string(meaning.type):
        return rest
    made = to_frame(pa.table({"": meaning})).iloc[:, 0]
    made.index, made.name = column.index, column.name
    return made
