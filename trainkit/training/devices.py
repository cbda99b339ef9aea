"""Which device to train on, and moving what is trained between devices."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from trainkit.errors import OptionError


def best_device() -> str:
    """Return ``cuda``, ``mps`` or ``cpu``: the first that is here."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def check_device(device: str) -> None:
    """Refuse a GPU that is not here; of other kinds of devices torch tells.

    Raises:
        OptionError: torch does not see it.
    """
    kind, _, index = device.partition(":")
    if kind not in ("cuda", "mps"):
        return
    import torch

    count = torch.cuda.device_count() if kind == "cuda" else int(torch.backends.mps.is_available())
    if (not index.isdigit() and device != kind) or int(index or 0) >= count:
        found = f"only {count}" if count else "no"
        raise OptionError(
            f"device={device!r}: torch {torch.__version__} found {found} {kind.upper()} "
            f"device{'s' * (count > 1)} on this machine; use device='cpu'{f' or {kind!r}' * bool(count)}"
        )


def move(things: Iterable[Any], device: str) -> None:
    """Move models and the state of optimizers to a device, in place, and give back the memory of the one before.

    Args:
        things: tracked objects; what has nothing to move is left alone.
        device: where to.
    """
    import torch

    for thing in things:
        if isinstance(thing, torch.nn.Module):
            thing.to(device)
        elif isinstance(thing, torch.optim.Optimizer):
            for state in thing.state.values():
                for name, value in state.items():
                    # Adam keeps its count of steps on the CPU on purpose.
                    if isinstance(value, torch.Tensor) and value.dim() > 0:
                        state[name] = value.to(device)
    if device == "cpu" and torch.cuda.is_available():
        torch.cuda.empty_cache()
