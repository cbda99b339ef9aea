"""The random generators of loaders: brought back to where they were, as far as the code does not do it itself.

A loader with a generator of its own draws the order of an epoch when its batches begin.  To pass over batches,
the generator has to be where it was then; between two epochs it has to be where the last epoch left it, unless
the code makes a new one, or seeds it, for every epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass
class _Loader:
    generator: Any
    first: Any  # its state when it was first used, in the first attempt
    began: Any  # its state when its batches began
    in_this_epoch: bool = True
    carried: bool = True  # from epoch to epoch, as far as is known


class LoaderGenerators:
    """The generators of a run's loaders, by which of the loops over batches of an epoch uses them first.

    Args:
        saved: what :meth:`content` gave in an earlier attempt.
    """

    def __init__(self, saved: Mapping[int, dict[str, Any]] | None = None) -> None:
        self._loaders: dict[int, _Loader] = {}
        self._cut = dict(saved or {})
        self._epochs = 0

    def begin_epoch(self) -> None:
        """Be at the top of an epoch, or of what is left of it."""
        self._epochs += 1
        if self._epochs > 1:
            self._cut = {}
        for loader in self._loaders.values():
            loader.in_this_epoch = False

    def begin(self, part: int, generator: Any) -> None:
        """Bring a loader's generator to where it was when its batches began, in the epoch of a cut."""
        if generator is None or any(generator is each.generator for each in self._in_this_epoch().values()):
            return
        before = self._loaders.get(part)
        cut = self._cut.get(part)
        if cut is not None and before is None:
            untouched = _same(generator.get_state(), cut["first"])
            if cut["began"] is not None:
                generator.set_state(cut["began"])
            elif cut["carried"] and untouched:
                generator.set_state(cut["now"])
            self._loaders[part] = _Loader(generator, cut["first"], generator.get_state(), carried=cut["carried"])
            return
        state = generator.get_state()
        if before is None:
            self._loaders[part] = _Loader(generator, state, state)
            return
        # One that begins each epoch in the same state is made, or seeded, anew by the code.
        carried = generator is before.generator and not _same(state, before.began)
        self._loaders[part] = _Loader(generator, before.first, state, carried=carried)

    def arrive(self) -> None:
        """Be back at the place of the cut: what else was drawn from these generators meanwhile counts too."""
        for part, loader in self._in_this_epoch().items():
            if (cut := self._cut.get(part)) is not None and cut["began"] is not None:
                loader.generator.set_state(cut["now"])
        self._cut = {part: cut for part, cut in self._cut.items() if cut["began"] is None}

    def content(self) -> dict[int, dict[str, Any]]:
        """Return all that a later attempt needs, in plain types and tensors."""
        begun = [loader.generator for loader in self._in_this_epoch().values()]
        states = {
            part: {
                "first": loader.first,
                "began": loader.began if loader.in_this_epoch else None,
                "now": loader.generator.get_state(),
                "carried": loader.carried,
            }
            for part, loader in self._loaders.items()
            if loader.in_this_epoch or not any(loader.generator is each for each in begun)
        }
        # A run that is cut again before it came to them hands on what it has of the others.
        return {**self._cut, **states}

    def _in_this_epoch(self) -> dict[int, _Loader]:
        return {part: loader for part, loader in self._loaders.items() if loader.in_this_epoch}


def _same(one: Any, other: Any) -> bool:
    return bool(one.shape == other.shape and (one == other).all())
