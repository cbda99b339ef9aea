"""What a run tracks: brought back when it is named, and once more when the run is back where it was cut.

To come back into the middle of an epoch, its code is run again from the top.  What that code did to tracked
things the first time, it does again: steps a scheduler, draws from a generator.  So generators begin the epoch as
they did then, for the same numbers to come out, and at the place of the cut everything is put as it was there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from trainkit.resuming.states import restore, state_of


class Tracked(Mapping[str, Any]):
    """The tracked things by name.

    Args:
        saved: their states at the place of the cut, by name; kept until the run is back there.
        in_a_loop: whether the place is in a loop of the run's, so that it is known when the run is back there.

    >>> import random
    >>> tracked = Tracked({"draws": state_of(random.Random(1))}, in_a_loop=False)
    >>> tracked.add("draws", draws := random.Random(2))
    >>> draws.random() == random.Random(1).random()
    True
    """

    def __init__(self, saved: Mapping[str, Any], *, in_a_loop: bool) -> None:
        self._things: dict[str, Any] = {}
        self._saved = dict(saved)
        self._in_a_loop = in_a_loop

    def __getitem__(self, name: str) -> Any:
        return self._things[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._things)

    def __len__(self) -> int:
        return len(self._things)

    def add(self, name: str, thing: Any) -> None:
        """Track a thing, as it was at the place of the cut if the run is not yet back there.

        A generator waits for the loop: what the code draws before is what it drew in the first attempt.
        """
        self._things[name] = thing
        if name in self._saved and not (self._in_a_loop and _draws(thing)):
            _bring_back(thing, self._saved[name])

    def release(self) -> None:
        """Let go of all things: the run has ended."""
        self._things, self._saved = {}, {}

    def states(self) -> dict[str, Any]:
        """Return the states of all."""
        return {name: state_of(thing) for name, thing in self.items()}

    def generators(self) -> dict[str, Any]:
        """Return the states of those that draw random numbers."""
        return {name: state_of(thing) for name, thing in self.items() if _draws(thing)}

    def rewind(self, generators: Mapping[str, Any]) -> None:
        """Have the generators draw again what they drew from some place on."""
        for name, state in generators.items():
            if name in self:
                restore(self[name], state)

    def arrive(self) -> None:
        """Be at the place of the cut; from here on nothing is brought back."""
        saved, self._saved = self._saved, {}
        for name, state in saved.items():
            if name in self:
                _bring_back(self[name], state)


def _draws(thing: Any) -> bool:
    # What has no state_dict is a generator of random numbers, or something of the user's that works like one.
    return not hasattr(thing, "state_dict")


def _bring_back(thing: Any, state: Any) -> None:
    restore(thing, state)
    if hasattr(thing, "param_groups"):
        # An earlier attempt has stepped; without this torch warns of a scheduler that steps first.
        thing._opt_called = True
