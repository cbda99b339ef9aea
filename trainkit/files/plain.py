"""Values as strict JSON can hold them, and back.  No disk, no clock, no torch.

A number that is not finite is written as a string, as in the protobuf JSON mapping, so that browsers and ``jq``
still read the file on the day the loss diverges.  https://protobuf.dev/programming-guides/json/
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from enum import Enum
from typing import Any

from trainkit.files.masking import MASK, is_secret, masked_text

#: Longer lists are shown by their length.
LONG_LIST = 1000
#: What lies deeper, or within itself, is shown by its kind.
_DEPTH = 20
#: What others wrote is read up to this depth; nothing that trainkit writes is nearly as deep.
_DEEPEST = 100
#: Longer integers are shown by their size: JSON readers refuse them, and Python does above 4,300 digits.
_MOST_BITS = 1024
#: How much of the repr of an object is looked at.
_MOST_TEXT = 5000
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def to_plain(value: Any) -> Any:
    """Return the value with every non-finite float replaced by its string, at any depth.

    >>> to_plain({"loss": float("nan"), "lr": [1.0, float("-inf")]})
    {'loss': 'NaN', 'lr': [1.0, '-Infinity']}
    """
    if value is None or type(value) in (int, bool):
        return value
    if type(value) is float:
        if math.isfinite(value):
            return value
        return "NaN" if value != value else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, str):
        value = str.__str__(value)  # a plain one, also of a subclass such as numpy's
        # File names that are no UTF-8 come as lone surrogates, which JSON cannot hold.
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {to_plain(str(key)): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value


def from_plain(value: Any, *, depth: int = _DEEPEST) -> Any:
    """Undo :func:`to_plain`.

    Raises:
        ValueError: the value is nested too deeply.

    >>> from_plain({"loss": "Infinity", "name": "fit"})
    {'loss': inf, 'name': 'fit'}
    """
    if type(value) is str:
        return _NON_FINITE.get(value, value)
    if type(value) not in (dict, list):
        return value
    if depth == 0:
        raise ValueError(f"nested more than {_DEEPEST} levels deep")
    if type(value) is dict:
        return {key: from_plain(item, depth=depth - 1) for key, item in value.items()}
    return [from_plain(item, depth=depth - 1) for item in value]


def to_jsonable(value: Any, *, depth: int = _DEPTH) -> Any:
    """Return a parameter as JSON can hold it: numbers, text, lists and mappings as they are, else its repr.

    Values that are named like secrets are masked, at any depth.

    >>> to_jsonable({"lr": 0.1, "sizes": (64, 64), "act": len})
    {'lr': 0.1, 'sizes': [64, 64], 'act': '<built-in function len>'}
    """
    try:
        return _jsonable(value, depth)
    except Exception as error:  # noqa: BLE001 - a class of the user's, which may raise anything
        return f"<{type(value).__name__}, which raises {type(error).__name__}>"


def _jsonable(value: Any, depth: int) -> Any:
    if isinstance(value, Enum):
        return to_jsonable(value.value, depth=depth)
    if type(value) is int and value.bit_length() > _MOST_BITS:
        return f"an integer of {value.bit_length():,} bits"
    if value is None or type(value) in (bool, int, float, str):
        return value
    if getattr(value, "shape", None) == () and hasattr(value, "item") and depth > 0:
        return to_jsonable(value.item(), depth=depth - 1)  # a scalar of numpy or torch
    if isinstance(value, (Mapping, list, tuple, set, frozenset)):
        if depth == 0:
            return f"{type(value).__name__} of {len(value)} values"
        if isinstance(value, Mapping):
            return {
                (name := _key(key)): MASK if is_secret(name, item) else to_jsonable(item, depth=depth - 1)
                for key, item in value.items()
            }
        # A parameter is read by people; data belongs into files.
        many = len(value) > LONG_LIST
        return to_jsonable(value, depth=0) if many else [to_jsonable(item, depth=depth - 1) for item in value]
    text = masked_text(str.__str__(repr(value))[:_MOST_TEXT])
    return text if len(text) <= 200 else text[:197] + "..."


def _key(key: Any) -> str:
    return str.__str__(str(key))  # a plain text where str() gives an instance of a subclass


def allow_non_finite(node: Any) -> Any:
    """Return a JSON Schema in which every number may also be one of the three strings of :func:`to_plain`."""
    if isinstance(node, dict):
        if node.get("type") == "number":
            return {"anyOf": [{**node}, {"enum": list(_NON_FINITE)}]}
        return {key: allow_non_finite(item) for key, item in node.items()}
    if isinstance(node, list):
        return [allow_non_finite(item) for item in node]
    return node


def clean_descriptions(node: Any) -> Any:
    r"""Return a JSON Schema whose descriptions, which come from docstrings, are not indented.

    >>> clean_descriptions({"description": "A job.\n\n    With more.\n    ", "type": "object"})
    {'description': 'A job.\n\nWith more.', 'type': 'object'}
    """
    if isinstance(node, dict):
        return {
            key: inspect.cleandoc(item)
            if key == "description" and isinstance(item, str)
            else clean_descriptions(item)
            for key, item in node.items()
        }
    if isinstance(node, list):
        return [clean_descriptions(item) for item in node]
    return node
