"""What ``trainkit submit`` is given: ``module:function`` and ``key=value``."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Container, Iterable, Mapping
from pathlib import Path
from typing import Any

import click
import msgspec

from trainkit.errors import OptionError, did_you_mean


def parse_values(words: Iterable[str]) -> dict[str, Any]:
    """Read ``key=value`` words; a value is JSON where it is JSON, else text.

    Raises:
        OptionError: not of that form, or a key twice.

    >>> parse_values(["lr=1e-3", "sizes=[64, 64]", "name=fit", "flag=true"])
    {'lr': 0.001, 'sizes': [64, 64], 'name': 'fit', 'flag': True}
    """
    values: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key.isidentifier():
            raise OptionError(f"expected key=value, such as lr=0.001, got {word!r}")
        if key in values:
            raise OptionError(f"{key} is given twice: {values[key]!r} and {text!r}")
        try:
            values[key] = msgspec.json.decode(text)
        except msgspec.DecodeError:
            values[key] = text
    return values


def refuse_options(values: Mapping[str, Any], params: Container[str]) -> None:
    """Refuse an option of the command that was given as a parameter, and say how it is given.

    Args:
        values: what was given as ``key=value``.
        params: the parameters that there are; one of these may have the name of an option.

    Raises:
        UsageError: there is such an option.
    """
    for option in click.get_current_context().command.params:
        if option.name in values and option.name not in params and isinstance(option, click.Option):
            raise click.UsageError(f"{option.name}= is an option of this command; use {option.opts[0]}")


def find_function(place: str) -> Callable[..., Any]:
    """Import the function that ``module:function`` names; the current folder counts as importable.

    Raises:
        OptionError: not of that form, no such module, no such function, or the import raised.
    """
    module_name, colon, name = place.partition(":")
    if not colon or not module_name or not name.isidentifier():
        raise OptionError(f"expected module:function, such as fit:train for train() in fit.py, got {place!r}")
    if module_name.endswith(".py") or "/" in module_name:
        dotted = module_name.removesuffix(".py").removeprefix("./").replace("/", ".")
        raise OptionError(f"{module_name!r} is a file; name the module: {dotted}:{name}")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    module = _imported(module_name, here)
    function = getattr(module, name, None)
    own = [
        each
        for each, value in vars(module).items()
        if callable(value) and not each.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]
    if function is None:
        has = ", ".join(own) or "none"
        raise OptionError(
            f"module {module_name!r} has no function {name!r}{did_you_mean(name, own)}; it has: {has}"
        )
    if not callable(function):
        raise OptionError(f"{place} is a {type(function).__name__}, not a function; callable: {', '.join(own)}")
    found: Callable[..., Any] = function
    return found


def _imported(module_name: str, here: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except Exception as error:  # importing runs the user's module, which may raise anything
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{module_name}.".startswith(f"{missing}."):
            near = did_you_mean(module_name, sorted(path.stem for path in Path(here).glob("*.py")))
            raise OptionError(f"no module {missing!r} in {here} or among the installed ones{near}") from None
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
        last = frames[-1] if frames else None
        at = f" ({last.filename}, line {last.lineno})" if last and not isinstance(error, SyntaxError) else ""
        raise OptionError(f"importing {module_name!r} raised {type(error).__name__}: {error}{at}") from error
