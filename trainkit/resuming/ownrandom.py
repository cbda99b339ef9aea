"""Random numbers of torch's that are a thread's own, whatever other threads draw.

torch has one default generator per device for the whole process.  Within :func:`own_random_numbers` every
random operation of this thread gets a generator of the thread's instead: a dispatch mode, which torch keeps
per thread, sees each operation, and the functions of ``torch.random`` (``manual_seed``, ``get_rng_state`` and so
also activation checkpointing) act on that generator.  The same seed gives the numbers that a process gets
whose default generator has that seed.  It costs about two microseconds per operation, forwards and backwards.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_own = threading.local()
_swapping = threading.Lock()


class _DefaultGenerator:
    """What ``torch.random`` takes for the default generator: the thread's own, where it has one."""

    def __init__(self, shared: torch.Generator) -> None:
        self._shared = shared

    def __getattr__(self, name: str) -> Any:
        return getattr(getattr(_own, "generator", None) or self._shared, name)


class _OwnRandom(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, seed: int, tell: Callable[[str], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seed = seed
        self._tell = tell
        self.generators = {"cpu": torch.Generator().manual_seed(seed)}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        drawing = _DRAWING.get(func)
        if drawing is None:
            drawing = _DRAWING[func] = _drawing(func)
        if drawing is _NOTHING:
            return func(*args, **kwargs)
        if drawing is _SHARED:
            self._tell(str(func))
            return func(*args, **kwargs)
        name, position = drawing.generator
        if (len(args) > position and args[position] is not None) or kwargs.get(name) is not None:
            return func(*args, **kwargs)
        if len(args) > position:
            args = (*args[:position], self._generator(args, kwargs), *args[position + 1 :])
            return drawing.func(*args, **kwargs)
        return drawing.func(*args, **{**kwargs, name: self._generator(args, kwargs)})

    def _generator(self, args: Any, kwargs: Any) -> torch.Generator:
        device = kwargs.get("device") or next((a.device for a in args if isinstance(a, torch.Tensor)), "cpu")
        key = str(device)
        if key not in self.generators:
            self.generators[key] = torch.Generator(device).manual_seed(self._seed)
        return self.generators[key]


class _Drawing:
    """An operation that draws, in the form that takes a generator."""

    def __init__(self, func: Any, position: int) -> None:
        self.func = func
        self.generator = ("generator", position)


_NOTHING, _SHARED = _Drawing(None, 0), _Drawing(None, 0)
_DRAWING: dict[Any, _Drawing] = {}


def _drawing(func: Any) -> _Drawing:
    """Find how an operation is given a generator."""
    names = [argument.name for argument in func._schema.arguments]
    if "generator" in names:
        return _Drawing(func, names.index("generator"))
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return _NOTHING
    packet = func._overloadpacket
    for name in packet.overloads():
        other = getattr(packet, name)
        theirs = [argument.name for argument in other._schema.arguments]
        if "generator" in theirs and [each for each in theirs if each != "generator"] == names:
            return _Drawing(other, 10_000)
    return _SHARED


@contextmanager
def own_random_numbers(seed: int, tell: Callable[[str], None] = lambda operation: None) -> Iterator[None]:
    """Give this thread random numbers of its own.

    Args:
        seed: from 0 to 2**63 - 1.
        tell: called with an operation that draws and takes no generator: it draws from the shared numbers.

    >>> with own_random_numbers(3):
    ...     own = torch.rand(2)
    >>> torch.equal(own, torch.rand(2, generator=torch.Generator().manual_seed(3)))
    True
    """
    with _swapping:
        if not isinstance(vars(torch.random)["default_generator"], _DefaultGenerator):
            shared: torch.Generator = vars(torch.random)["default_generator"]
            vars(torch.random)["default_generator"] = _DefaultGenerator(shared)
    mode = _OwnRandom(seed, tell)
    before = getattr(_own, "generator", None)
    _own.generator = mode.generators["cpu"]
    try:
        with mode:
            yield
    finally:
        _own.generator = before
