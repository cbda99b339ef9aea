"""The arguments of one call: options of the job, and parameters of its function, which may have the same names."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Collection, Container, Mapping
from typing import Any, ParamSpec, TypeVar

from trainkit.errors import OptionError, did_you_mean
from trainkit.runners import RUNNERS
from trainkit.runners.task import describe

P = ParamSpec("P")
R = TypeVar("R")


def telling_params_apart(
    *, for_function: Collection[str] = (), for_both: Collection[str] = ()
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate ``start(function, params=None, /, *, options, **more)``: no value reaches the wrong one of the two.

    The options are the keyword-only arguments of ``start``.  One that is also the name of a parameter of the
    function is refused, because nobody can know which is meant.  The exception is ``runner`` with the name of a
    runner: that is the option, and a warning reports the function's parameter.  A parameter that a ``partial`` has
    bound has its value, so that it is not ambiguous.  With a mapping ``params`` it is clear: that has
    parameters only, and keywords with the name of an option are options.

    Args:
        for_function: options that are the function's where it has a parameter of that name.
        for_both: options that the function gets too, where it takes them.
    """

    def decorate(start: Callable[P, R]) -> Callable[P, R]:
        arguments = inspect.signature(start).parameters.values()
        options = [each.name for each in arguments if each.kind is each.KEYWORD_ONLY]

        @functools.wraps(start)
        def apart(*args: P.args, **kwargs: P.kwargs) -> R:
            function: Any = args[0] if args else None
            given: dict[str, Any] = dict(kwargs)
            named = names_of(function)
            if len(args) < 2 or args[1] is None:
                own = {name: given.pop(name) for name in for_function if name in given and name in named}
                settled = {*for_both, *getattr(function, "keywords", ())}  # a partial has bound its keywords
                shared = [name for name in options if name in given and name in named and name not in settled]
                if "runner" in shared and given["runner"] in list(RUNNERS):
                    shared.remove("runner")
                    _warn_of_runner(start.__name__, function, given["runner"])
                if shared:
                    raise OptionError(_ambiguous(start.__name__, function, shared, given))
            else:
                own = merged(start.__name__, args[1], {})
            both = {}
            for name in for_both:
                if given.get(name) is not None and _takes(function, name):
                    both[name] = given[name]
            more = {name: given.pop(name) for name in list(given) if name not in options}
            changed: Any = start
            result: R = changed(function, {**both, **merged(start.__name__, own, more)}, *args[2:], **given)
            return result

        return apart

    return decorate


def merged(called: str, params: object, more: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters that were given in a mapping and as keywords.

    Raises:
        OptionError: it is not a mapping with names for keys, or one parameter is in both.
    """
    if params is None:
        params = {}
    if not isinstance(params, Mapping) or not all(isinstance(name, str) for name in params):
        raise OptionError(
            f"{called}() got {type(params).__name__} {params!r:.80} for params; expected a dict of parameters, "
            "such as {'lr': 0.1}, or keywords, such as lr=0.1"
        )
    for name in params.keys() & more.keys():
        raise OptionError(f"{called}() got {name!r} twice: {params[name]!r:.60} and {more[name]!r:.60}")
    return {**params, **more}


def shared_with(params: Collection[str], options: Mapping[str, Any]) -> str | None:
    """Return the name of an option that was given, and is the name of a parameter too."""
    return next((name for name, value in options.items() if value is not None and name in params), None)


def _ambiguous(called: str, function: Callable[..., Any], names: list[str], given: Mapping[str, Any]) -> str:
    name, fit = names[0], describe(function)
    value = f"{given[name]!r:.60}"
    others = f" (and so are {', '.join(f'{each}=' for each in names[1:])})" if names[1:] else ""
    return (
        f"{name}={value} is ambiguous{others}: {name} is an option of {called}() and a parameter of {fit}(). "
        f"Pass parameters in a dict and options as keywords: {called}({fit}, {{{name!r}: {value}}}) for {fit}(), "
        f"{called}({fit}, {{}}, {name}={value}) for the option; both can be given"
    )


def _warn_of_runner(called: str, function: Callable[..., Any], runner: str) -> None:
    """Warn that the name of a runner is taken as the option, although the function has such a parameter, too."""
    fit = describe(function)
    warnings.warn(
        f"runner={runner!r} is the option of {called}(), and {fit}() keeps its own value of its parameter runner; "
        f"{called}({fit}, {{'runner': ...}}, runner={runner!r}) gives both",
        UserWarning,
        stacklevel=3,
    )


def names_of(function: Callable[..., Any]) -> Container[str]:
    """Return the names of the parameters that a function takes by name; empty if it does not tell."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # not a function, or a built-in without a signature
        return frozenset()
    return frozenset(list(parameters)[1:])


def _takes(function: Callable[..., Any], name: str) -> bool:
    try:
        kinds = {each.kind for each in inspect.signature(function).parameters.values()}
    except (TypeError, ValueError):  # as in names_of
        return False
    return name in names_of(function) or inspect.Parameter.VAR_KEYWORD in kinds


def bound(function: Callable[..., Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """Return all arguments that the function will get after ``run``, its defaults included.

    Raises:
        OptionError: it does not take them.
    """
    name = describe(function)
    if isinstance(function, functools.partial) and function.args:
        raise OptionError(
            f"functools.partial gives {function.args[0]!r:.60} to the first argument of {name}(), which is to "
            "take the run; name what it gives, as in partial(fit, lr=0.1), or pass it to submit"
        )
    called = inspect.unwrap(getattr(function, "func", function))
    for each in (called, getattr(called, "__call__", None)):  # noqa: B004 - its kind is asked, not whether it is
        if (
            inspect.isgeneratorfunction(each)
            or inspect.iscoroutinefunction(each)
            or inspect.isasyncgenfunction(each)
        ):
            raise OptionError(
                f"{name}() is a generator or async function, so calling it would run nothing; "
                "pass a plain function (in one, asyncio.run(...) runs async code)"
            )
    try:
        signature = inspect.signature(function)
    except ValueError:
        return dict(params)  # a built-in that does not tell
    if not signature.parameters:
        raise OptionError(f"{name}() takes no argument; its first one is to take the run: def {name}(run, ...)")
    taken = list(signature.parameters)[1:]
    open_ended = any(each.kind is each.VAR_KEYWORD for each in signature.parameters.values())
    for unknown in [] if open_ended else [each for each in params if each not in taken]:
        raise OptionError(
            f"{name}() takes no parameter {unknown!r}{did_you_mean(unknown, taken)}; "
            f"parameters: {', '.join(taken) or 'none'}"
        )
    try:
        bound = signature.bind(None, **params)
    except TypeError as error:
        raise OptionError(f"{name}(run, ...) cannot be called with these parameters: {error}") from None
    bound.apply_defaults()
    first = next(iter(bound.arguments), None)
    arguments: dict[str, Any] = {}
    for key, value in bound.arguments.items():
        if key == first:
            continue
        kind = signature.parameters[key].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            arguments.update(value)
        elif kind is not inspect.Parameter.VAR_POSITIONAL:
            arguments[key] = value
    return arguments
