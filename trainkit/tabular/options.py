"""The options of table training: one definition for Python, the command line, HTTP and forms.

Neither torch nor pandas is imported here, so that a command line can print its help at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

import msgspec
from msgspec import Meta

from trainkit.errors import OptionError

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
        Delimiter | None, Meta(description="Character between the fields of a CSV; without it a comma.")
    ] = None
    missing: Annotated[
        tuple[str, ...],
        Meta(description="Words read as a missing value, such as NA or ?; empty fields always are."),
    ] = ()


def check_options(values: Mapping[str, Any], *, from_text: bool = False) -> TrainOptions:
    """Make :class:`TrainOptions` from loose values, or say which one is wrong.

    Args:
        values: option names and values; numpy scalars are taken as plain numbers.
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
        plain = value.item() if hasattr(value, "item") and not isinstance(value, (list, tuple)) else value
        if from_text and isinstance(plain, str) and name in ("hidden", "missing"):
            words = [word.strip() for word in plain.split(",")]
            plain = words[0] if name == "hidden" and len(words) == 1 else words
        elif isinstance(plain, str) and name == "missing":
            plain = (plain,)
        try:
            # Lax conversion would also turn the text "null" into None: never for options that are text.
            lax = from_text and name not in ("target", "task", "device", "delimiter", "missing")
            checked[name] = msgspec.convert(plain, fields[name].type, strict=not lax)
        except msgspec.ValidationError:
            raise OptionError(f"{name}={value!r} is not allowed: {allowed(name)}") from None
    return TrainOptions(**checked)


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
    text = words.get(schema.get("type", ""), "")
    limits = (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<"))
    bounds = [f"{sign} {schema[key]}" for key, sign in limits if key in schema]
    return " ".join([text, ", ".join(bounds)]).strip()


def _unknown(name: str, known: list[str]) -> str:
    near = [OTHER_NAMES[name]] if name in OTHER_NAMES else difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"unknown option {name!r}{hint} Options: {', '.join(known)}"
