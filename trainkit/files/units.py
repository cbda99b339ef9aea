"""Sizes and time spans, as people write and read them."""

from __future__ import annotations

import math
import re

from trainkit.errors import OptionError


def size(size_bytes: float) -> str:
    """Return a number of bytes as people read it.

    >>> size(512), size(3_400_000), size(2.5e9)
    ('512 B', '3.24 MB', '2.33 GB')
    """
    for unit in ("B", "KB", "MB"):
        if size_bytes < 1000:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.3g} GB"


def duration(seconds: float) -> str:
    """Return a time span as people say it; none is negative, though a clock may have been set back meanwhile.

    >>> duration(0.4), duration(75), duration(7260), duration(-3600)
    ('0.4 s', '1 min 15 s', '2 h 1 min', '0.0 s')
    """
    if not math.isfinite(seconds):
        return "an unknown time"
    seconds = max(0.0, seconds)
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


_UNITS_S = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}
_SPAN = re.compile(r"(?:\d+(?:\.\d+)?(?:s|min|m|h|d))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(s|min|m|h|d)")


def seconds(value: object, *, name: str) -> float:
    """Return a time span in seconds.

    Args:
        value: a number of seconds, or a text such as ``"90s"``, ``"30min"``, ``"2h"``, ``"1h 30min"``, ``"1d"``.
        name: of the option, for the error.

    Raises:
        OptionError: neither of these, or not above 0.

    >>> seconds(90, name="max_time"), seconds("1h 30min", name="max_time"), seconds("0.5h", name="max_time")
    (90.0, 5400.0, 1800.0)
    >>> seconds("soon", name="max_time")
    Traceback (most recent call last):
    trainkit.errors.OptionError: max_time='soon': expected seconds above 0, or such as '90s', '30min', '1h 30min'
    """
    found = math.nan
    if isinstance(value, str):
        text = "".join(value.split()).lower()
        if _SPAN.fullmatch(text):
            found = sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(text))
        elif re.fullmatch(r"\d+(\.\d+)?", text):
            found = float(text)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        found = float(value)
    if not 0 < found < math.inf:
        raise OptionError(f"{name}={value!r}: expected seconds above 0, or such as '90s', '30min', '1h 30min'")
    return found
