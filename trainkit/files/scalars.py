"""Numbers taken out of tensors: at once where that costs nothing, later where a device is still computing them."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable
from typing import Any


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
        A number, or :class:`OnDevice`; what is neither is returned as it is.

    >>> import numpy as np
    >>> taken(np.array([0.5]))
    0.5
    """
    on_cpu = getattr(value, "is_cpu", None)
    if on_cpu is None:
        # An array may change before it is written; numpy's numbers come this way too.
        return value.item() if getattr(value, "size", None) == 1 and hasattr(value, "item") else value
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
            except RuntimeError:
                continue  # the training meets the same error, and tells it
        numbers |= zip(map(id, group), found, strict=True)
    return numbers
