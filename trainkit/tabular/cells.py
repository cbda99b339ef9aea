"""What a column of texts means: whole numbers, numbers, booleans, dates, or just text.

This is the exact definition behind the CSV reader.  Arrow's own inference is faster and agrees with
it except where a column's *values* cannot tell (007 and 7, 1e400 and inf); such columns come here.

A column is read as something other than text only if **every** value is, exactly:

- whole number: ``-?(0|[1-9][0-9]*)``, within 64 bits (so 007, +5 and 0x10 are text);
- number: a finite decimal literal without leading zeros; an integer beyond 2**53 only where
  a float holds it exactly (``1e400``, ``1e-400``, ``nan`` and ``inf`` are text);
- boolean: True, true, False, false;
- date: ISO 8601, ``2020-02-29`` or ``2020-02-29 12:30[:15[.5]][Z|+01:00]``.

Blanks around a number or a date are allowed; in text they are kept.  A fraction of a second has up to nine digits,
in a column that also has dates before 1677 or after 2262 up to six.
"""

from __future__ import annotations

import math
from typing import cast

import pyarrow as pa
import pyarrow.compute as pc

from trainkit.tabular.grammar import in_parallel

INTEGER = r"^[ \t]*-?(0|[1-9][0-9]*)[ \t]*$"
NUMBER = r"^[ \t]*-?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?[ \t]*$"
ZERO = r"^-?[0.]+([eE][-+]?[0-9]+)?$"
BOOLEAN = r"^(True|true|False|false)$"
CLOCK = r"[ T][0-9]{2}(:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?)?(Z|[-+][0-9]{2}(:?[0-9]{2})?)?"
DATE = rf"^[ \t]*[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}({CLOCK})?[ \t]*$"
SOME = 1000  # values that are looked at before all of them are
FLOAT_EXACT = 2.0**53  # above this, two neighbouring integers share one float


def infer(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the column as the narrowest kind that holds every value exactly; missing stays missing.

    Args:
        texts: string values, (rows,).

    >>> infer(pa.chunked_array([["1", None, " 2"]])).type
    DataType(int64)
    >>> infer(pa.chunked_array([["007", "8"]])).type
    DataType(string)
    """
    present = texts.drop_null()
    if len(present) == 0:
        return pa.chunked_array([pa.nulls(len(texts))])
    for pattern, convert in ((INTEGER, _integers), (NUMBER, _numbers), (BOOLEAN, _booleans), (DATE, _dates)):
        if all(
            pc.all(pc.match_substring_regex(part, pattern)).as_py() for part in (present.slice(0, SOME), present)
        ):
            try:
                converted = convert(pc.utf8_trim_whitespace(texts))
            except pa.ArrowInvalid:  # 64 bits exceeded, 30 February, mixed zones: the next kind, or text
                continue
            if converted is not None:
                return converted
    return texts


def is_inexact(column: pa.ChunkedArray) -> bool:
    """Tell whether parsed floats may hide an infinity, a NaN word or an integer beyond 2**53."""
    if not pa.types.is_floating(column.type) or len(column) == column.null_count:
        return False
    # min_max ignores NaN; a sum does not.
    span = pc.min_max(column).as_py()
    large = span["min"] is None or max(abs(span["min"]), abs(span["max"])) >= FLOAT_EXACT
    return large or not math.isfinite(pc.sum(column).as_py())


def dates(texts: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """Return the column as dates, or None where not every value is one; missing stays missing."""
    # Most columns of text are known by their first value.
    if not begins_with_date(texts):
        return None
    parts = in_parallel(_all_dates, [pa.chunked_array([chunk]) for chunk in texts.chunks])
    found = [part for part in parts if part is not None]
    if len(found) == len(parts) and len({part.type for part in found}) == 1:
        return pa.chunked_array([chunk for part in found for chunk in part.chunks])
    return _all_dates(texts)  # a part has nothing, or what is usual in it is not usual in another


def _all_dates(texts: pa.ChunkedArray) -> pa.ChunkedArray | None:
    if not pc.all(pc.match_substring_regex(texts, DATE)).as_py():
        return None
    try:
        return _dates(pc.utf8_trim_whitespace(texts))
    except pa.ArrowInvalid:  # 30 February, an hour 25
        return None


def begins_with_date(texts: pa.ChunkedArray) -> bool:
    """Whether the first value that is not missing looks like a date."""
    first = next((part for chunk in texts.chunks if len(part := chunk.drop_null())), None)
    return first is not None and pc.match_substring_regex(first.slice(0, 1), DATE)[0].as_py() is True


def _integers(texts: pa.ChunkedArray) -> pa.ChunkedArray | None:
    return cast(pa.ChunkedArray, pc.cast(texts, pa.int64()))


def _numbers(texts: pa.ChunkedArray) -> pa.ChunkedArray | None:
    numbers = pc.cast(texts, pa.float64())
    if pc.any(pc.is_inf(numbers)).as_py():
        return None
    zeros = pc.equal(numbers, 0.0)
    if not pc.all(pc.match_substring_regex(texts.filter(zeros), ZERO), min_count=0).as_py():
        return None  # 1e-400 is not nothing
    large = pc.greater_equal(pc.abs(numbers), FLOAT_EXACT)
    whole = pc.and_(large, pc.match_substring_regex(texts, INTEGER))
    for text, number in zip(texts.filter(whole).to_pylist(), numbers.filter(whole).to_pylist(), strict=True):
        if int(text) != int(number):
            return None
    return cast(pa.ChunkedArray, numbers)


def _booleans(texts: pa.ChunkedArray) -> pa.ChunkedArray | None:
    return cast(pa.ChunkedArray, pc.equal(pc.utf8_lower(texts), "true"))


def _dates(texts: pa.ChunkedArray) -> pa.ChunkedArray | None:
    zoned = pc.match_substring_regex(texts, r"[0-9]{2}(Z|[-+][0-9]{2}(:?[0-9]{2})?)$")
    # The dashes of a plain date look like an offset: a zone needs a time before it.
    zoned = pc.and_(zoned, pc.match_substring(texts, ":"))
    any_zone, all_zones = pc.any(zoned).as_py(), pc.all(zoned).as_py()
    if any_zone and not all_zones:
        return None
    zone = "UTC" if any_zone else None
    if not pc.any(pc.match_substring(texts, ".")).as_py():
        return cast(pa.ChunkedArray, pc.cast(texts, pa.timestamp("s", tz=zone)))
    try:
        return cast(pa.ChunkedArray, pc.cast(texts, pa.timestamp("ns", tz=zone)))
    except pa.ArrowInvalid:  # before 1677 or after 2262, say: nine digits do not fit there, six do
        return cast(pa.ChunkedArray, pc.cast(texts, pa.timestamp("us", tz=zone)))
