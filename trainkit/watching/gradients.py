"""How large the gradients are: looked at about once a second between two steps, also where nobody logs them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from trainkit.files.scalars import number, taken

#: How often they are looked at, and what part of the training thread's time that may take at most.
EVERY_S = 1.0
SHARE = 0.001


class GradientNorm:
    """Takes the norm of the gradients when it is asked to.

    The training thread looks at it only where it looks after its requests anyway; another thread asks, and waits
    for the device if need be.

    Args:
        call: makes the training thread look.
        clock: seconds, from any beginning.

    Attributes:
        wanted: whether the training thread should take it.
        pause_s: how long to wait until it is asked for again.
    """

    def __init__(self, call: Callable[[], None], *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._call, self._clock = call, clock
        self._taken: tuple[int, Any] | None = None
        self.wanted = False
        self.pause_s = EVERY_S

    def begin(self) -> None:
        """Have it taken after the current step."""
        self.wanted = True
        self._call()

    def take(self, things: Iterable[Any], step: int) -> None:
        """Take it, in the training thread; a device goes on computing meanwhile.

        Args:
            things: those with ``parameters()`` count.
            step: the step that has ended.
        """
        self.wanted = False
        began_at = self._clock()
        try:
            norm = gradient_norm(things)
        except Exception:  # noqa: BLE001 - what is tracked may be of any class; the training is not to end for this
            norm = None
        self._taken = None if norm is None else (step, taken(norm))
        self.pause_s = max(EVERY_S, (self._clock() - began_at) / SHARE)

    def collect(self) -> tuple[int, float] | None:
        """Return a step and its norm, once, if one was taken; not for the training thread, since it may wait."""
        found, self._taken = self._taken, None
        if found is None:
            return None
        step, norm = found
        value = number(norm)
        return None if value is None else (step, value)


def gradient_norm(things: Iterable[Any]) -> Any:
    """Return the norm of all gradients that things hold at the moment, a tensor of one element, if there are any.

    Those that are spread over several ranks are left out: to read them, all ranks would have to meet.
    """
    parameters = {id(each): each for thing in things for each in _parameters(thing)}
    gradients = [each.grad for each in parameters.values() if each.grad is not None]
    if not gradients:
        return None  # without torch, which takes a second to import, where the training itself has no use for it
    import torch

    norms = [_norm(gradient.detach()) for gradient in gradients if _is_here(gradient)]
    if not norms:
        return None
    return torch.linalg.vector_norm(torch.stack([each.to(norms[0].device, non_blocking=True) for each in norms]))


def _parameters(thing: Any) -> Iterable[Any]:
    parameters = getattr(thing, "parameters", None)
    return parameters() if callable(parameters) else ()


def _is_here(gradient: Any) -> bool:
    import torch

    return type(gradient) is torch.Tensor and gradient.layout is torch.strided


def _norm(gradient: Any) -> Any:
    import torch

    small = gradient.dtype in (torch.float16, torch.bfloat16)  # their own range ends too early for a sum
    return torch.linalg.vector_norm(gradient, dtype=torch.float32 if small else None).float()
