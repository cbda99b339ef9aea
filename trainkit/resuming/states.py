"""The state of what a run tracks, in plain types and tensors: a checkpoint can be read without running code.

Tracked can be what has ``state_dict`` and ``load_state_dict``, or ``get_state`` and ``set_state``, or is a
generator of random numbers of torch's, numpy's or Python's own.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from typing import Any

#: What stands for an array of numpy's, which ``torch.load(weights_only=True)`` refuses.
_ARRAY = "trainkit.ndarray"


def has_state(thing: Any) -> bool:
    """Whether a thing has a state that can be kept and brought back.

    >>> has_state(random.Random(1)), has_state([1, 2])
    (True, False)
    """
    if is_generator(thing):
        return True
    return _pair(thing, "state_dict", "load_state_dict") or _pair(thing, "get_state", "set_state")


def is_generator(thing: Any) -> bool:
    """Whether a thing draws random numbers."""
    if isinstance(thing, random.Random) and not isinstance(thing, random.SystemRandom):
        return True
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if numpy is not None and isinstance(thing, (numpy.random.Generator, numpy.random.RandomState)):
        return True
    return torch is not None and isinstance(thing, torch.Generator)


def part_of(thing: Any, name: str) -> Any:
    """Return an attribute of something that training code made; None where there is none, or it cannot be read."""
    try:
        return getattr(thing, name, None)
    except Exception:  # noqa: BLE001 - a property, or a __getattr__, of any class
        return None


def state_of(thing: Any) -> Any:
    """Return the state of a thing, in plain types and tensors.

    >>> state_of(random.Random(1))[0]
    3
    """
    if isinstance(thing, random.Random):
        return plain(thing.getstate())
    if _is_of_numpy(thing):
        # Not the tuple of `RandomState.get_state()`: a dict says what is what.
        return plain(_bits(thing).state)
    return plain(thing.state_dict() if hasattr(thing, "state_dict") else thing.get_state())


def restore(thing: Any, state: Any) -> None:
    """Bring back what :func:`state_of` gave.

    >>> one, other = random.Random(1), random.Random(2)
    >>> restore(other, state_of(one))
    >>> one.random() == other.random()
    True
    """
    state = _unplain(state)
    if isinstance(thing, random.Random):
        version, internal, gauss = state
        thing.setstate((version, tuple(internal), gauss))
    elif _is_of_numpy(thing):
        _bits(thing).state = state
    elif hasattr(thing, "load_state_dict"):
        thing.load_state_dict(state)
    else:
        thing.set_state(state)


def plain(state: Any) -> Any:
    """Return a state with numbers and arrays of numpy's as numbers of Python's and tensors, at any depth.

    ``torch.load(weights_only=True)`` refuses the former, so what was saved with them could never be read.

    >>> import numpy as np
    >>> plain({"best": np.float64(0.5), "seen": (1, 2)})
    {'best': 0.5, 'seen': (1, 2)}
    """
    if isinstance(state, Mapping):
        changed = {key: plain(value) for key, value in state.items()}
        # The same object wherever nothing had to change: a module's state dict carries versions besides.
        return state if all(changed[key] is value for key, value in state.items()) else changed
    if type(state) in (list, tuple):
        items = [plain(value) for value in state]
        return state if all(new is old for new, old in zip(items, state, strict=True)) else type(state)(items)
    if type(state).__module__ == "numpy":
        if getattr(state, "shape", None) == () and hasattr(state, "item"):
            return state.item()
        if hasattr(state, "dtype") and state.dtype.kind in "biufc":
            import torch

            return {_ARRAY: torch.from_numpy(state.copy())}
    return state


def _unplain(state: Any) -> Any:
    if isinstance(state, Mapping):
        if set(state) == {_ARRAY}:
            return state[_ARRAY].numpy()
        changed = {key: _unplain(value) for key, value in state.items()}
        return state if all(changed[key] is value for key, value in state.items()) else changed
    if type(state) in (list, tuple):
        items = [_unplain(value) for value in state]
        return state if all(new is old for new, old in zip(items, state, strict=True)) else type(state)(items)
    return state


def _pair(thing: Any, getter: str, setter: str) -> bool:
    return hasattr(thing, getter) and hasattr(thing, setter)


def _is_of_numpy(thing: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(thing, (numpy.random.Generator, numpy.random.RandomState))


def _bits(thing: Any) -> Any:
    return thing.bit_generator if hasattr(thing, "bit_generator") else thing._bit_generator
