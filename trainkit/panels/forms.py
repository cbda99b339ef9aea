"""Forms: what a page asks for, made from a function's signature or from the options of table training.

A form is a list of fields; what the page sends back is text and is converted and checked here.
"""

from __future__ import annotations

import ast
import enum
import inspect
import re
import types
import typing
from collections.abc import Callable, Container, Mapping
from typing import Any, Literal

import msgspec

from trainkit.errors import OptionError
from trainkit.files.units import seconds
from trainkit.tabular.options import TrainOptions, check_options

Kind = Literal["int", "float", "bool", "text", "choice", "python"]


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """One thing a form asks for.

    Attributes:
        name: of the parameter.
        label: what it is called in the form; without it the name.
        kind: how it is asked for; ``python`` takes a literal such as ``[64, 64]``.
        default: as text; empty where there is none.
        required: whether it must be filled in.
        minimum, maximum: inclusive, for numbers.
        choices: as text, for ``choice``.
        about: one line for the reader.
        group: ``main``; ``more`` for what few people change; ``job`` for what is not the training's own.
    """

    name: str
    kind: Kind
    label: str = ""
    default: str = ""
    required: bool = False
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    about: str = ""
    placeholder: str = ""
    group: str = "main"


class FunctionForm:
    """The form of a training function: its parameters after ``run``.

    Args:
        function: any training function.

    >>> def fit(run, hidden: int = 64, act: Literal["relu", "gelu"] = "relu"): ...
    >>> form = FunctionForm(fit)
    >>> [(field.name, field.kind, field.default) for field in form.fields]
    [('hidden', 'int', '64'), ('act', 'choice', 'relu')]
    >>> form.values({"hidden": "128", "act": "gelu"})
    {'hidden': 128, 'act': 'gelu'}
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._parameters = dict(list(_signature(function).parameters.items())[1:])
        self._types: dict[str, Any] = {}
        hints = _hints(function)
        explained = described(inspect.getdoc(function) or "")
        fields = []
        for name, parameter in list(self._parameters.items()):
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
                del self._parameters[name]
                continue
            fields.append(self._field(name, parameter, hints.get(name), explained.get(name, "")))
        self.fields = fields

    def values(self, texts: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters from what a page sent; those left as they were get the default itself.

        Raises:
            OptionError: the first that cannot be used, by name.
        """
        return {field.name: self._checked(field, texts.get(field.name, field.default)) for field in self.fields}

    def problems(self, texts: Mapping[str, Any]) -> dict[str, str]:
        """Return what is wrong, by field."""
        found = {}
        for field in self.fields:
            try:
                self._checked(field, texts.get(field.name, field.default))
            except OptionError as error:
                found[field.name] = str(error)
        return found

    def _checked(self, field: Field, text: Any) -> Any:
        default = self._parameters[field.name].default
        untouched = str(text) == field.default and default is not inspect.Parameter.empty
        return default if untouched else self._value(field, text)

    def _field(self, name: str, parameter: inspect.Parameter, hint: Any, about: str) -> Field:
        default = None if parameter.default is parameter.empty else parameter.default
        required = parameter.default is parameter.empty
        plain, optional, low, high = _unwrapped(hint if hint is not None else type(default))
        self._types[name] = plain
        common: dict[str, Any] = {"name": name, "required": required, "about": about}
        if typing.get_origin(plain) is Literal:
            choices = tuple(str(each) for each in typing.get_args(plain))
            return Field(
                kind="choice", choices=("", *choices) if optional else choices, default=_text(default), **common
            )
        if isinstance(plain, type) and issubclass(plain, enum.Enum):
            chosen = default.name if isinstance(default, enum.Enum) else ""
            names = tuple(each.name for each in plain)
            return Field(kind="choice", choices=("", *names) if optional else names, default=chosen, **common)
        if plain is bool:
            return Field(kind="bool", default=_text(bool(default)), **common)
        if plain in (int, float):
            kind: Kind = "int" if plain is int else "float"
            shown = "none" if optional and default is None else ""
            return Field(kind=kind, default=_text(default), minimum=low, maximum=high, placeholder=shown, **common)
        if plain is str:
            return Field(kind="text", default=_text(default), **common)
        return Field(kind="python", default="" if required else repr(default), **common)

    def _value(self, field: Field, text: Any) -> Any:
        name, plain = field.name, self._types[field.name]
        text = str(text).strip()
        if text == "" and field.kind != "text":
            if field.required:
                raise OptionError(f"{name} is needed")
            if self._parameters[name].default is None or "" in field.choices:
                return None
            raise OptionError(f"{name} is empty; expected {_expected(field)}")
        if field.kind == "choice":
            return _chosen(field, plain, text)
        try:
            if field.kind == "bool":
                return {"true": True, "false": False}[text.lower()]
            if field.kind == "int":
                value: Any = int(text)
            elif field.kind == "float":
                value = float(text)
            elif field.kind == "python":
                return ast.literal_eval(text)
            else:
                return text
        except (ValueError, KeyError, SyntaxError):
            raise OptionError(f"{name}={text!r}: expected {_expected(field)}") from None
        if (field.minimum is not None and value < field.minimum) or (
            field.maximum is not None and value > field.maximum
        ):
            raise OptionError(f"{name}={text}: expected {_expected(field)}")
        return value


#: Options that most people look at, in this order; the rest is folded away.
_MAIN = ("target", "task", "epochs", "batch_size", "lr", "hidden")


class TableForm:
    """The form of table training: one field for each of :class:`~trainkit.tabular.options.TrainOptions`."""

    def __init__(self) -> None:
        properties = msgspec.json.schema(TrainOptions)["$defs"]["TrainOptions"]["properties"]
        names = [*_MAIN, *(name for name in properties if name not in _MAIN)]
        self.fields = [_option_field(name, properties[name]) for name in names]

    def values(self, texts: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options that were filled in.

        Raises:
            OptionError: the first that is wrong, by name.
        """
        known = {field.name for field in self.fields}
        given = {name: str(text).strip() for name, text in texts.items() if name in known and str(text).strip()}
        options = check_options(given, from_text=True)
        return {name: getattr(options, name) for name in given}

    def problems(self, texts: Mapping[str, Any]) -> dict[str, str]:
        """Return what is wrong, by field."""
        return _problems(self.values, texts)


class LimitsForm:
    """When a job should end by itself: the options of :func:`~trainkit.submit` that go with every function.

    Args:
        without: names that the training takes itself, as ``submit`` gives them to it then.

    >>> form = LimitsForm(without={"patience"})
    >>> form.values({"max_time": "2h", "patience": "5"})
    {'max_time': '2h'}
    >>> form.problems({"max_time": "soon"})["max_time"]
    "max_time='soon': expected seconds above 0, or such as '90s', '30min', '1h 30min'"
    """

    def __init__(self, without: Container[str] = ()) -> None:
        fields = (
            Field(
                name="max_time",
                label="Longest time",
                kind="text",
                placeholder="no limit",
                about="Such as 30min or 2h; then it finishes with what it has",
                group="job",
            ),
            Field(
                name="patience",
                label="Patience",
                kind="int",
                placeholder="no limit",
                minimum=1,
                about="End after so many epochs without a better value",
                group="job",
            ),
        )
        self.fields = [field for field in fields if field.name not in without]

    def values(self, texts: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options that were filled in.

        Raises:
            OptionError: the first that is wrong, by name.
        """
        found: dict[str, Any] = {}
        for field in self.fields:
            text = str(texts.get(field.name, "")).strip()
            if text == "":
                continue
            if field.name == "max_time":
                seconds(text, name=field.name)
                found[field.name] = text
            elif text.isdecimal() and int(text) > 0:
                found[field.name] = int(text)
            else:
                raise OptionError(f"{field.name}={text!r}: expected {_expected(field)}")
        return found

    def problems(self, texts: Mapping[str, Any]) -> dict[str, str]:
        """Return what is wrong, by field."""
        return _problems(self.values, texts)


def _problems(values: Callable[[Mapping[str, Any]], object], texts: Mapping[str, Any]) -> dict[str, str]:
    """Return what is wrong with each text alone, by field."""
    found = {}
    for name, text in texts.items():
        try:
            values({name: text})
        except OptionError as error:
            found[name] = str(error)
    return found


def _option_field(name: str, schema: dict[str, Any]) -> Field:
    variants = schema.get("anyOf", [schema])
    about = schema.get("description") or next(
        (each["description"] for each in variants if "description" in each), ""
    )
    default = schema.get("default")
    group = "main" if name in _MAIN else "more"
    choices = next((tuple(each["enum"]) for each in variants if "enum" in each), ())
    common: dict[str, Any] = {"name": name, "about": about, "group": group}
    if name == "target":
        return Field(kind="choice", **common)  # its choices are the columns of the table
    if choices:
        return Field(kind="choice", choices=choices, default=str(default), **common)
    numeric = [each for each in variants if each.get("type") in ("integer", "number")]
    if numeric and len(variants) <= 2 and not any(each.get("type") == "array" for each in variants):
        (found,) = numeric
        return Field(
            kind="int" if found["type"] == "integer" else "float",
            default="" if default is None else str(default),
            minimum=found.get("minimum", found.get("exclusiveMinimum")),
            maximum=found.get("maximum", found.get("exclusiveMaximum")),
            placeholder="from the data" if default is None else "",
            **common,
        )
    placeholder = {"hidden": "64 or 128, 64", "device": "the best there is", "missing": "NA, ?"}.get(name, "")
    return Field(kind="text", placeholder=placeholder, **common)


def described(doc: str) -> dict[str, str]:
    """Return what a docstring says of each argument, in Google's style.

    >>> described("Fit.\\n\\nArgs:\\n    lr: learning\\n        rate.\\n    hidden (int): width.")
    {'lr': 'learning rate.', 'hidden': 'width.'}
    """
    section = re.search(r"^(?:Args|Arguments|Parameters):[ ]*\n((?:[ \t]+.*\n?|\n)+)", doc, re.MULTILINE)
    if section is None:
        return {}
    found: dict[str, str] = {}
    current, indent = "", None
    for line in section[1].splitlines():
        depth = len(line) - len(line.lstrip())
        indent = depth if indent is None and line.strip() else indent
        entry = re.match(r"\s*\*{0,2}(\w+)\s*(?:\([^)]*\))?:\s*(.*)", line)
        if entry and depth == indent:
            current = entry[1]
            found[current] = entry[2].strip()
        elif current and line.strip():
            found[current] += " " + line.strip()
    return found


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise OptionError(f"expected a training function, got {function!r:.80}: {error}") from None


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError):
        return {}  # annotations that name what is not there: defaults tell enough


def _unwrapped(hint: Any) -> tuple[Any, bool, float | None, float | None]:
    """Return the plain type, whether None is allowed, and the range."""
    low = high = None
    optional = False
    while True:
        origin = typing.get_origin(hint)
        if origin is typing.Annotated:
            hint, *marks = typing.get_args(hint)
            for mark in marks:
                low, high = _range(mark, low, high)
        elif origin in (typing.Union, types.UnionType):
            members = [each for each in typing.get_args(hint) if each is not type(None)]
            optional = optional or len(members) < len(typing.get_args(hint))
            if set(members) == {int, float}:
                members = [float]
            if len(members) != 1:
                return object, optional, low, high
            (hint,) = members
        else:
            return hint, optional, low, high


def _range(mark: Any, low: float | None, high: float | None) -> tuple[float | None, float | None]:
    """Read a range from an annotation: msgspec.Meta, annotated-types, ``range(1, 9)`` or ``(0, 1)``."""
    if isinstance(mark, range):
        return mark.start, mark.stop - 1
    if isinstance(mark, tuple) and len(mark) == 2:
        return mark[0], mark[1]
    first = [getattr(mark, name, None) for name in ("ge", "gt")]
    last = [getattr(mark, name, None) for name in ("le", "lt")]
    return (
        next((each for each in first if isinstance(each, (int, float))), low),
        next((each for each in last if isinstance(each, (int, float))), high),
    )


def _chosen(field: Field, plain: Any, text: str) -> Any:
    if isinstance(plain, type) and issubclass(plain, enum.Enum):
        if text in plain.__members__:
            return plain[text]
    else:
        for each in typing.get_args(plain):
            if str(each) == text:
                return each
    raise OptionError(f"{field.name}={text!r}: expected {_expected(field)}")


def _expected(field: Field) -> str:
    """Say in words what a field takes."""
    if field.kind == "choice":
        return "one of " + ", ".join(each for each in field.choices if each)
    words = {
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "python": "a Python literal such as [64, 64]",
        "text": "text",
    }[field.kind]
    limits = []
    if field.minimum is not None:
        limits.append(f"at least {field.minimum:g}")
    if field.maximum is not None:
        limits.append(f"at most {field.maximum:g}")
    return " ".join([words, " and ".join(limits)]).strip()


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
