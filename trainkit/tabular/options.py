"""The options of table training: one definition for Python, the command line, HTTP and forms.

Neither torch nor pandas is imported here, so that a command line can print its help at once.
"""

from __future__ import annotations

import contextlib
import difflib
import shlex
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, cast

import msgspec
from msgspec import Meta

from trainkit.errors import OptionError
from trainkit.files.scalars import plain_value

Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Width = Annotated[int, Meta(ge=1, le=8192)]
Widths = Annotated[tuple[Width, ...], Meta(min_length=1, max_length=32)]
Rate = Annotated[float, Meta(gt=0, le=10)]
Share = Annotated[float, Meta(ge=0, lt=1)]
Part = Annotated[float, Meta(gt=0, lt=1)]
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Delimiter = Annotated[str, Meta(min_length=1, max_length=1)]
#: What other libraries call them.
OTHER_NAMES = {
    "hidden_layer_sizes": "hidden",
    "layers": "hidden",
    "learning_rate": "lr",
    "max_epochs": "epochs",
    "na_values": "missing",
    "num_epochs": "epochs",
    "random_state": "seed",
    "sep": "delimiter",
    "test_size": "val_fraction",
    "validation_split": "val_fraction",
}
#: What people type for a delimiter that a shell or a form makes hard to type.
DELIMITER_NAMES = {"\\t": "\t", "tab": "\t", "space": " "}
Device = Annotated[str, Meta(pattern=r"^(cpu|mps|cuda(:[0-9]{1,3})?)$")]


class TrainOptions(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What can be told about training on a table.  ``None`` means: chosen from the data.

    Use :func:`check_options` to make one from loose values; its errors name the option.
    """

    target: Annotated[
        str | None, Meta(description="Column to predict; without it a column named y, target or label.")
    ] = None
    task: Annotated[
        Literal["auto", "regression", "classification"],
        Meta(description="Predict numbers (regression) or classes; auto decides from the target column."),
    ] = "auto"
    epochs: Annotated[Count | None, Meta(description="Passes over the training rows.")] = None
    batch_size: Annotated[Count | None, Meta(description="Rows per step.")] = None
    lr: Annotated[Rate | None, Meta(description="Highest learning rate of the schedule.")] = None
    hidden: Annotated[
        Width | Widths | None, Meta(description="Width of the hidden layers, or one width for each of them.")
    ] = None
    dropout: Annotated[Share | None, Meta(description="Share of hidden units left out in a step; 0 for none.")] = (
        None
    )
    val_fraction: Annotated[Part | None, Meta(description="Share of the rows held out for validation.")] = None
    seed: Annotated[Seed, Meta(description="Seed of the split, the weights, the order and the dropout.")] = 0
    device: Annotated[
        Device | None, Meta(description="cpu, mps, cuda or cuda:N; without it the best that is here.")
    ] = None
    patience: Annotated[Count | None, Meta(description="Epochs without improvement before stopping.")] = None
    log_every: Annotated[Count, Meta(description="Steps between two logged losses.")] = 5
    delimiter: Annotated[
        Delimiter | None, Meta(description="Character between the fields of a CSV, or tab; without it a comma.")
    ] = None
    missing: Annotated[
        tuple[str, ...],
        Meta(description="Words read as a missing value, such as NA or ?; empty fields always are."),
    ] = ()


def check_options(values: Mapping[str, Any], *, from_text: bool = False) -> TrainOptions:
    """Make :class:`TrainOptions` from loose values, or say which one is wrong.

    Args:
        values: option names and values; scalars and arrays of numpy or torch are taken as plain numbers and lists.
        from_text: also read numbers from text (``"64"``), as a command line or a form sends them.

    Raises:
        OptionError: an unknown option (with the nearest name), a wrong type, a value out of range.

    >>> check_options({"epochs": 3, "hidden": [64, 32]}).hidden
    (64, 32)
    >>> check_options({"epoch": 3})
    Traceback (most recent call last):
    trainkit.errors.OptionError: unknown option 'epoch'; did you mean 'epochs'? Options: batch_size, \
delimiter, device, dropout, epochs, hidden, log_every, lr, missing, patience, seed, target, task, val_fraction
    """
    fields = {field.name: field for field in msgspec.structs.fields(TrainOptions)}
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if name not in fields:
            raise OptionError(_unknown(name, sorted(fields)))
        plain = _plain(name, value, from_text=from_text)
        try:
            # Lax conversion would also turn the text "null" into None: never for options that are text.
            lax = from_text and name not in ("target", "task", "device", "delimiter", "missing")
            checked[name] = msgspec.convert(plain, fields[name].type, strict=not lax)
        except msgspec.ValidationError:
            raise OptionError(f"{name}={_brief(value)} is not allowed: {allowed(name)}") from None
    return TrainOptions(**checked)


def _plain(name: str, value: Any, *, from_text: bool) -> Any:
    """Return an option's value as plain Python data: what a user would write for it."""
    try:
        plain = plain_value(value)
    except Exception as error:  # noqa: BLE001 - code of another library
        raise OptionError(f"{name}={_brief(value)} cannot be read ({error}): {allowed(name)}") from None
    if name == "missing":
        return _missing_words(plain, from_text=from_text)
    if name == "delimiter" and isinstance(plain, str):
        return DELIMITER_NAMES.get(plain.lower(), plain)
    if name == "device" and type(plain).__module__ == "torch":
        return str(plain)
    if isinstance(plain, list) and len(plain) == 1 and not isinstance(value, list) and name != "hidden":
        return plain[0]  # an array of one number
    if name == "hidden" and from_text and isinstance(plain, str):
        words = [word.strip() for word in plain.split(",")]
        return words[0] if len(words) == 1 else words
    return plain


def _missing_words(plain: Any, *, from_text: bool) -> Any:
    """Return words for a missing value as a list; a number stands for how it is written."""
    if from_text and isinstance(plain, str):
        with contextlib.suppress(msgspec.DecodeError):  # a JSON list, for words with commas or blanks
            return msgspec.json.decode(plain, type=list[str])
        return [word.strip() for word in plain.split(",")]
    words = [plain] if isinstance(plain, (str, int, float)) else plain
    if not isinstance(words, (list, tuple, set, frozenset)):
        return words
    return [str(word) if isinstance(word, (int, float)) and not isinstance(word, bool) else word for word in words]


def advice(name: str, value: str | Sequence[str]) -> str:
    r"""Return how to pass an option, in Python and on the command line; both work as they are written.

    >>> advice("missing", ["n/a", "?"])
    "missing=('n/a', '?') (command line: --missing 'n/a,?')"
    >>> advice("delimiter", "\t")
    "delimiter='\\t' (command line: --delimiter '\\t')"
    """
    if isinstance(value, str):
        shown = repr(value)
        written = "\\t" if name == "delimiter" and value == "\t" else value
    else:
        shown = repr(tuple(value))
        is_plain = all(word and word == word.strip() and "," not in word and "[" not in word for word in value)
        written = ",".join(value) if is_plain else msgspec.json.encode(list(value)).decode()
    equals = "=" if written.startswith("-") else " "
    return f"{name}={shown} (command line: --{name}{equals}{shlex.quote(written)})"


def _brief(value: Any) -> str:
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001 - a class of the user's, which may raise anything
        text = f"<{type(value).__name__}, whose repr raises {type(error).__name__}>"
    text = " ".join(text.split()) if "\n" in text else text
    return text if len(text) <= 100 else text[:97] + "..."


def allowed(name: str) -> str:
    """Say in words what an option takes.

    >>> allowed("dropout")
    'expected a number >= 0, < 1. Share of hidden units left out in a step; 0 for none.'
    """
    about, kinds = describe_option(name)
    return f"expected {kinds}. {about}"


def describe_option(name: str) -> tuple[str, str]:
    """Return what an option is for, and what it takes.

    >>> describe_option("dropout")
    ('Share of hidden units left out in a step; 0 for none.', 'a number >= 0, < 1')
    """
    schema = cast(dict[str, Any], msgspec.json.schema(TrainOptions)["$defs"]["TrainOptions"]["properties"][name])
    variants = schema.get("anyOf", [schema])
    kinds = [text for variant in variants if (text := _kind(variant))]
    about = schema.get("description") or next((v["description"] for v in variants if "description" in v), "")
    return about, " or ".join(kinds)


def _kind(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return "one of " + ", ".join(repr(value) for value in schema["enum"])
    words = {"integer": "a whole number", "number": "a number", "string": "a text", "array": "a list"}
    text = "one character" if schema.get("maxLength") == 1 else words.get(schema.get("type", ""), "")
    limits = (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<"))
    bounds = [f"{sign} {schema[key]}" for key, sign in limits if key in schema]
    return " ".join([text, ", ".join(bounds)]).strip()


def _unknown(name: str, known: list[str]) -> str:
    near = [OTHER_NAMES[name]] if name in OTHER_NAMES else difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"unknown option {name!r}{hint} Options: {', '.join(known)}"
