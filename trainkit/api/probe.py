"""A training function that is watched from within: saved, killed and ended at given steps, its state written down.

It is what :mod:`trainkit.api.verifying` runs in place of the user's function; it travels to the job's process
with it.
"""

from __future__ import annotations

import inspect
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainkit.resuming.determinism import random_state
from trainkit.resuming.states import has_state, is_generator, state_of
from trainkit.training.boundary import StopRun
from trainkit.training.run import Run

#: How deep, and how far, variables are looked into.
_DEPTH, _ITEMS = 3, 200
#: Objects of these are looked at as a whole, never into.
_CLOSED = ("torch", "numpy", "trainkit", "builtins", "pandas", "cloudpickle")


@dataclass
class Seen:
    """The state of a run after a step.

    Attributes:
        step: after which step.
        values: every tensor, number and random stream, by its name; what is tracked first.
        untracked: variables with a state that is not tracked: name, and the class.
        ended: whether the function returned.
    """

    step: int
    values: dict[str, Any] = field(default_factory=dict)
    untracked: dict[str, str] = field(default_factory=dict)
    ended: bool = False


class Probe:
    """Calls a training function, and looks at it between its steps.

    Args:
        function: the user's.
        steps: after how many to write the state down and end.
        kills: for each attempt that is killed, the step to save after and the step to die after.
        out: where the state is written.
    """

    def __init__(self, function: Callable[..., Any], steps: int, kills: list[tuple[int, int]], out: str) -> None:
        self.function = function
        self.steps = steps
        self.kills = kills
        self.out = out

    def __call__(self, run: Run, **arguments: Any) -> Any:
        """Run the function."""
        attempt = run._recorder.record.attempt
        self._save_at, self._die_at = self.kills[attempt - 1] if attempt <= len(self.kills) else (-1, -1)
        batches, epochs, log = run.batches, run.epochs, run.log

        def watched_batches(loader: Iterable[Any], *, phase: str = "training") -> Iterator[Any]:
            before = run.step
            for batch in batches(loader, phase=phase):
                yield batch
                if run.step > before:
                    before = run.step
                    self._after_step(run, sys._getframe(1))

        def watched_epochs(count: int) -> Iterator[int]:
            yield from epochs(count)
            self._note(run, sys._getframe(1))

        def watched_log(
            more: Mapping[str, Any] | None = None, /, *, step: int | None = None, **values: Any
        ) -> None:
            log(more, step=step, **values)
            if run._place.steps_by_log:
                self._after_step(run, sys._getframe(1))

        vars(run).update(batches=watched_batches, epochs=watched_epochs, log=watched_log)
        self._seen: Seen | None = None
        result = self.function(run, **arguments)
        seen = self._seen or self._look(run, None)
        for name, value in _state("what it returned", result):
            seen.values.setdefault(name, _copied(value))
        seen.ended = True
        self._write(seen)
        return result

    def _after_step(self, run: Run, frame: Any) -> None:
        if run.step == self._save_at:
            run.checkpoint()
        if self._die_at > 0 and run.step >= self._die_at and run._boundary._saved_at is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        if run.step >= self.steps:
            self._write(self._look(run, frame))
            raise StopRun

    def _note(self, run: Run, frame: Any) -> None:
        self._seen = self._look(run, frame)

    def _write(self, seen: Seen) -> None:
        temporary = Path(f"{self.out}.tmp")
        temporary.write_bytes(pickle.dumps(seen))
        temporary.replace(self.out)

    def _look(self, run: Run, frame: Any) -> Seen:
        seen = Seen(run.step)
        known: set[int] = set()
        for name, thing in run.tracked.items():
            known.add(id(thing))
            for part, value in _state(name, thing):
                known |= _storages(value)
                seen.values[part] = _copied(value)
        for library, state in random_state().items():
            seen.values[f"the random numbers of {library}"] = state
        for name, value in _variables(self.function, frame, Probe.__call__.__code__):
            self._look_into(seen, name, value, known, _DEPTH)
        return seen

    def _look_into(self, seen: Seen, name: str, value: Any, known: set[int], depth: int) -> None:
        if id(value) in known or isinstance(value, (type, Run)):
            return
        if inspect.isroutine(value) or inspect.ismodule(value):
            return
        known.add(id(value))
        if _is_array(value) or isinstance(value, (bool, int, float, str)):
            if not _storages(value) & known:
                seen.values[f"variable {name}"] = _copied(value)
            return
        if has_state(value):
            leaves = list(_state(f"variable {name}", value))
            own = [(part, each) for part, each in leaves if not _storages(each) & known]
            if is_generator(value) or any(_is_array(each) for _, each in own):
                seen.untracked[name] = type(value).__name__
                seen.values.update((part, _copied(each)) for part, each in own)
            return
        if depth == 0:
            return
        if isinstance(value, Mapping) and len(value) <= _ITEMS:
            for key, each in value.items():
                self._look_into(seen, f"{name}[{key!r}]", each, known, depth - 1)
        elif isinstance(value, (list, tuple)) and len(value) <= _ITEMS:
            for at, each in enumerate(value):
                self._look_into(seen, f"{name}[{at}]", each, known, depth - 1)
        elif hasattr(value, "dataset"):
            self._look_into(seen, f"{name}.dataset", value.dataset, known, depth - 1)
        elif hasattr(value, "__dict__") and type(value).__module__.split(".")[0] not in _CLOSED:
            for key, each in list(vars(value).items()):
                self._look_into(seen, f"{name}.{key}", each, known, depth - 1)


def _variables(function: Callable[..., Any], frame: Any, top: Any) -> Iterator[tuple[str, Any]]:
    """The variables of the code around a step, innermost first, and what the function finds outside of itself."""
    while frame is not None and frame.f_code is not top:
        yield from list(frame.f_locals.items())
        frame = frame.f_back
    plain = inspect.unwrap(function)
    if inspect.isfunction(plain):
        found = inspect.getclosurevars(plain)
        for name, value in {**found.nonlocals, **found.globals}.items():
            if has_state(value) or is_generator(value):
                yield name, value


def _state(name: str, thing: Any) -> Iterator[tuple[str, Any]]:
    """The leaves of a thing's state, each with a name."""
    if has_state(thing) or hasattr(thing, "state_dict"):
        yield from _leaves(name, state_of(thing))
    elif _is_array(thing) or isinstance(thing, (bool, int, float, str, dict, list, tuple)):
        yield from _leaves(name, thing)


def _leaves(name: str, state: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(state, Mapping):
        for key, each in state.items():
            yield from _leaves(f"{name}.{key}", each)
    elif isinstance(state, (list, tuple)) and any(
        isinstance(each, (Mapping, list, tuple)) or _is_array(each) for each in state
    ):
        for at, each in enumerate(state):
            yield from _leaves(f"{name}[{at}]", each)
    else:
        yield name, state


def _is_array(value: Any) -> bool:
    library = type(value).__module__.split(".")[0]
    return library in ("torch", "numpy") and hasattr(value, "dtype") and hasattr(value, "shape")


def _copied(value: Any) -> Any:
    """A value as it is now, in a form that can be pickled and compared."""
    if hasattr(value, "untyped_storage"):
        return value.detach().cpu().clone()
    if _is_array(value):
        return value.copy()
    plain = isinstance(value, (bool, int, float, str, type(None), list, tuple))
    return value if plain else f"a {type(value).__name__}"


def _storages(value: Any) -> set[int]:
    """Where the numbers of a tensor lie, so that a second name for them is known as one."""
    return {value.untyped_storage().data_ptr()} if hasattr(value, "untyped_storage") and value.numel() else set()
