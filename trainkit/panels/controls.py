"""The controls of a job's numbers: over what range a slider goes, so that it is of use around the value."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from trainkit.training.params import FOLLOWED

#: Such quantities are tried in powers of ten.
_BY_FACTORS = re.compile(
    r"(^|_)(lr|learning_rate|weight_decay|wd|decay|eps|epsilon|alpha|lambda|lam|l1|l2)(_|\d*$)"
)
#: Of these, a rate of 0 stands still; a penalty of 0 is none, and is wanted.
_NEVER_ZERO = re.compile(r"(^|_)(lr|learning_rate|eps|epsilon)(_|\d*$)")
_DECADES = 2
#: Numbers that a page cannot hold exactly get no control.
_MOST = 2**53


@dataclass(frozen=True)
class Control:
    """A slider with a number field.

    Attributes:
        name: of the parameter.
        value: as it is now.
        low, high: the ends of the slider; the field takes any number.
        log: whether equal ways on the slider are equal factors.
        zero: whether the left end of a logarithmic slider is 0.
        whole: whether only whole numbers make sense.
    """

    name: str
    value: float
    low: float
    high: float
    log: bool = False
    zero: bool = False
    whole: bool = False


def control(name: str, value: float) -> Control:
    """Return the control of a parameter.

    >>> control("lr", 3e-4)
    Control(name='lr', value=0.0003, low=1e-06, high=0.01, log=True, zero=False, whole=False)
    >>> control("dropout", 0.1).low, control("dropout", 0.1).high
    (0.0, 1.0)
    >>> control("batch_size", 64).high, control("shift", -3.0).low
    (500.0, -20.0)
    """
    whole = isinstance(value, int)
    by_factors = not whole and (_BY_FACTORS.search(name) is not None or 0 < value < 0.01)
    if by_factors and value >= 0:
        zero = not _NEVER_ZERO.search(name)
        decade = math.floor(math.log10(value)) if value > 0 else -3
        return Control(name, value, _power(decade - _DECADES), _power(decade + _DECADES), log=True, zero=zero)
    if not whole and 0 <= value <= 1:
        return Control(name, value, 0.0, 1.0)
    high = _round_up(4 * abs(value)) if value else 10.0
    low = -high if value < 0 else (1.0 if whole and value else 0.0)
    return Control(name, value, low, high, whole=whole)


class Controls:
    """The controls of one job; a range stays as it is while its value moves within it."""

    def __init__(self) -> None:
        self._ranges: dict[str, Control] = {}

    def of(self, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the controls of all numeric parameters, those first that reach the optimizers by themselves."""
        found = []
        for name in sorted(params, key=lambda name: name not in FOLLOWED):
            value = params[name]
            if not _is_number(value):
                continue
            known = self._ranges.get(name)
            within = known is not None and known.whole == isinstance(value, int)
            if (
                known is None
                or not within
                or not (known.low <= value <= known.high or (known.zero and value == 0))
            ):
                known = self._ranges[name] = control(name, value)
            found.append({**asdict(known), "value": value})
        return found


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and abs(value) <= _MOST


def _power(exponent: int) -> float:
    return float(f"1e{exponent}")  # 10.0**-6 is not 1e-06


def _round_up(value: float) -> float:
    """Return 1, 2 or 5 times a power of ten, not below the value.

    >>> _round_up(256), _round_up(12), _round_up(0.3)
    (500.0, 20.0, 0.5)
    """
    decade = math.floor(math.log10(value))
    return next(
        _power(decade) * factor for factor in (1, 2, 5, 10) if value <= _power(decade) * factor * (1 + 1e-9)
    )
