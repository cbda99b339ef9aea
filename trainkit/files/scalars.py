"""Numbers that training code hands over: taken out of tensors, converted exactly, or refused.

Numbers of a tensor are taken at once where that costs nothing, later where a device is still computing them.
"""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from trainkit.errors import OptionError, text_of

#: What every reader of a record can hold.
MOST = 2**63 - 1


class Unreadable:
    """A value that was logged and whose number cannot be read.

    Attributes:
        reason: what it is and what it raised, in words.
    """

    __slots__ = ("reason",)

    def __init__(self, value: object, error: BaseException) -> None:
        self.reason = f"{type(value).__name__}, which raised {type(error).__name__}"
        if text := text_of(error):
            self.reason += f" ({text:.80})"


class OnDevice:
    """A number that a device may still be computing.

    Attributes:
        tensor: a copy of one element, which nobody else changes.
        stream: the CUDA stream that the copy was ordered on; None on other devices.
    """

    __slots__ = ("stream", "tensor")

    def __init__(self, tensor: Any, stream: Any = None) -> None:
        self.tensor = tensor
        self.stream = stream


def taken(value: Any) -> Any:
    """Take a value out of the training code's hands: what it holds now is what is logged.  Waits for no device.

    Args:
        value: a number, or a tensor or array of one element.

    Returns:
        A number, :class:`OnDevice`, or :class:`Unreadable`; what is not a number is returned as it is.

    >>> import numpy as np
    >>> taken(np.array([0.5]))
    0.5
    """
    try:
        on_cpu = getattr(value, "is_cpu", None)
        if on_cpu is None:
            return value if type(value) in _AS_THEY_ARE else _taken_of_array(value)
        if value.numel() != 1:
            return value
        if on_cpu:
            return value.item()
        # A copy on the same stream; the recorder's thread waits for it, the training does not.
        copy = value.detach().clone()
        if not value.is_cuda:
            return OnDevice(copy)
        import torch

        return OnDevice(copy, torch.cuda.current_stream(value.device))
    except BaseException as error:
        # In the main thread an interrupt may come at any instant, and has nothing to do with the value.
        if not isinstance(error, Exception) and threading.current_thread() is threading.main_thread():
            raise
        return Unreadable(value, error)


#: Types of values that nobody can change, and that are converted when they are written.
_AS_THEY_ARE = frozenset({int, bool, str, type(None)})


def _taken_of_array(value: Any) -> Any:
    # An array, or an object of the user's, may change before it is written; numpy's numbers come this way too.
    if getattr(value, "size", None) == 1 and hasattr(value, "item"):
        return value.item()
    return float(value) if hasattr(value, "__float__") and not hasattr(value, "shape") else value


def fetched(values: Iterable[OnDevice]) -> dict[int, Any]:
    """Wait for numbers that devices compute; all of one stream come over in one piece.

    Returns:
        The numbers by the ``id`` of what was given; those of a device that has failed are not among them.
    """
    groups: defaultdict[Any, list[OnDevice]] = defaultdict(list)
    for value in values:
        groups[value.stream, value.tensor.device, value.tensor.dtype].append(value)
    if not groups:
        return {}
    import torch

    numbers: dict[int, Any] = {}
    for (stream, _, _), group in groups.items():
        # On the stream of the copies, so that they are complete: another stream would not wait for them.
        with torch.cuda.stream(stream) if stream is not None else contextlib.nullcontext():
            try:
                found = torch.stack([each.tensor.reshape(()) for each in group]).tolist()
            except Exception:  # noqa: BLE001 - the training meets the error of a device itself, and reports it
                continue
        numbers |= zip(map(id, group), found, strict=True)
    return numbers


def number(value: Any) -> float | None:
    """Return what :func:`taken` gave as a float, after waiting for its device; None where it is not a number.

    >>> number(3), number("n/a")
    (3.0, None)
    """
    if isinstance(value, OnDevice):
        value = fetched([value]).get(id(value))
    try:
        return float(value)
    except Exception:  # noqa: BLE001 - an object of the user's, which may raise anything
        return None


def described(value: Any) -> str:
    """Return in words what a logged value is that has no number."""
    if isinstance(value, Unreadable):
        return value.reason
    if isinstance(value, OnDevice):
        return f"a tensor on {value.tensor.device}, which could not be fetched from there"
    return f"{type(value).__name__}, which is not one number"


def whole_number(value: Any, name: str, *, least: int = 0) -> int:
    """Return a count that training code gave, as an ``int`` of the same value.

    Args:
        value: an integer, a float without a fraction, or a scalar of numpy or torch, on any device.
        name: what it is for, as in ``run.epochs(count)``.
        least: the lowest that is allowed.

    Raises:
        OptionError: another value.

    >>> whole_number(3.0, "run.epochs(count)")
    3
    >>> whole_number("3", "run.total_steps")
    Traceback (most recent call last):
    trainkit.errors.OptionError: run.total_steps: expected a whole number >= 0, got '3' (str)
    """
    if type(value) is int and least <= value <= MOST:
        return value
    try:
        found = value.item() if hasattr(value, "item") else value
        if not isinstance(found, bool) and least <= (whole := int(found)) <= MOST and whole == found:
            return whole
    except Exception:  # noqa: BLE001 - an object of the user's, which may raise anything
        pass  # refused below
    hint = "; // divides without a fraction" if isinstance(value, float) and value % 1 else ""
    limit = f"from {least} to 2**63 - 1" if isinstance(value, (int, float)) and value > MOST else f">= {least}"
    raise OptionError(
        f"{name}: expected a whole number {limit}, got {_shown(value)} ({type(value).__name__}){hint}"
    )


def _shown(value: Any) -> str:
    try:
        return f"{value!r:.80}"
    except Exception:  # noqa: BLE001 - a class of the user's, which may raise anything
        return "a value without a text"


def plain_value(value: Any) -> Any:
    """Return a scalar of numpy or torch as the Python value that it is exactly, and an array as a list.

    Any other value is returned as it is.

    >>> import numpy as np
    >>> plain_value(np.int64(3)), plain_value(np.array(0.5)), plain_value((np.int64(64), 32))
    (3, 0.5, (64, 32))
    """
    if isinstance(value, (list, tuple)):
        return type(value)(map(plain_value, value)) if type(value) in (list, tuple) else value
    return value.tolist() if hasattr(value, "shape") and callable(getattr(value, "tolist", None)) else value
