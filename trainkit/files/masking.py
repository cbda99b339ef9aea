"""Parameters that are named like secrets: what the record, events, panels and HTTP show in their place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MASK = "********"
#: The last word of names whose values are masked, whatever they are.
_SECRET = frozenset(
    {
        "credential",
        "credentials",
        "creds",
        "passcode",
        "passphrase",
        "passwd",
        "password",
        "pwd",
        "secret",
        "secrets",
    }
)
#: The last word of names whose values are masked if they are not numbers: 3 is an index, or the id of a token.
_SECRET_TEXT = frozenset(["apikey", "auth", "authorization", "bearer", "cookie", "jwt", "key", "token"])
#: Words before those that make a plain name of them, as in ``pad_token`` and ``target_key``.
_PLAIN = frozenset(
    {
        "action",
        "batch",
        "bos",
        "cache",
        "cls",
        "col",
        "column",
        "config",
        "data",
        "dict",
        "edge",
        "embedding",
        "end",
        "entity",
        "eos",
        "feature",
        "field",
        "fim",
        "first",
        "foreign",
        "group",
        "id",
        "image",
        "index",
        "input",
        "item",
        "join",
        "label",
        "last",
        "log",
        "lookup",
        "loss",
        "mask",
        "merge",
        "metric",
        "monitor",
        "node",
        "obs",
        "output",
        "pad",
        "partition",
        "prefix",
        "primary",
        "prng",
        "public",
        "query",
        "random",
        "reward",
        "rng",
        "row",
        "sample",
        "seed",
        "seeds",
        "sep",
        "sort",
        "source",
        "special",
        "start",
        "state",
        "stop",
        "target",
        "text",
        "time",
        "timestamp",
        "train",
        "unk",
        "val",
        "value",
        "weight",
        "weights",
    }
)
#: Records show longer collections by their length, so that none holds a mask.
_LONGEST = 1000
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
#: A name and a text in the repr of an object: ``api_key='…'``.
_NAMED_TEXT = re.compile(r"([A-Za-z_][\w-]*)(['\"]?\s*[=:]\s*)(['\"])(?:.*?\3|.*)", re.DOTALL)


def is_secret(name: object, value: object) -> bool:
    """Whether a value is masked, by the last word of its name.

    >>> [is_secret(name, "x") for name in ("api_key", "hfToken", "DB_PASSWORD", "n_tokens", "key_dim", "monkey")]
    [True, True, True, False, False, False]
    """
    if value is None or isinstance(value, bool) or (isinstance(value, (str, bytes)) and not value):
        return False
    words = [word.lower() for word in _WORD.findall(str(name))]
    if not words:
        return False
    if words[-1] in _SECRET:
        return True
    if words[-1] not in _SECRET_TEXT or isinstance(value, (int, float, complex)):
        return False
    return len(words) == 1 or words[-2] not in _PLAIN


def masked_text(text: str) -> str:
    """Return the repr of an object with the texts masked that it names like secrets.

    >>> masked_text("Namespace(lr=0.1, api_key='abc')")
    "Namespace(lr=0.1, api_key='********')"
    """

    def mask(found: re.Match[str]) -> str:
        name, between, quote = found.groups()
        return f"{name}{between}{quote}{MASK}{quote}" if is_secret(name, "text") else found.group()

    return _NAMED_TEXT.sub(mask, text)


def unmasked(shown: Any, value: Any) -> Any:
    """Return what is shown of a value, with the value itself where it was masked.

    >>> unmasked({"lr": 0.1, "hub": {"token": "********"}}, {"lr": 0.2, "hub": {"token": "abc"}})
    {'lr': 0.1, 'hub': {'token': 'abc'}}
    """
    if isinstance(shown, str) and shown == MASK:
        return value
    if isinstance(shown, dict) and isinstance(value, Mapping):
        return {name: unmasked(item, value[name]) if name in value else item for name, item in shown.items()}
    if isinstance(shown, list) and isinstance(value, (list, tuple)) and len(shown) == len(value):
        return [unmasked(*pair) for pair in zip(shown, value, strict=True)]
    return shown


def is_mask_given(value: Any, *, depth: int = 20) -> bool:
    """Whether a value that is given for a parameter is what a record shows for a secret, or holds that.

    >>> is_mask_given({"hub": ["********"]}), is_mask_given("sk-123")
    (True, False)
    """
    if isinstance(value, str):
        return value == MASK
    if depth == 0 or not isinstance(value, (Mapping, list, tuple)) or len(value) > _LONGEST:
        return False
    items = value.values() if isinstance(value, Mapping) else value
    return any(is_mask_given(item, depth=depth - 1) for item in items)


def has_mask(shown: Any) -> bool:
    """Whether anything of a value was masked.

    >>> has_mask({"hub": [{"token": "********"}]}), has_mask({"lr": 0.1})
    (True, False)
    """
    if isinstance(shown, dict):
        return any(map(has_mask, shown.values()))
    return any(map(has_mask, shown)) if isinstance(shown, list) else isinstance(shown, str) and MASK in shown
