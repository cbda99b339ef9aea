"""What a notebook or script defines, as the ``__main__`` of the processes that run its job.

Pickle writes a class or function of a notebook as ``__main__.Net``.  ``torch.save(model)``, ``torch.load``,
``Pool.map`` and a DataLoader that spawns its workers look there for it.  So the process of a job gets a new
``__main__``, which has what travelled with the task: the globals of its functions, and other definitions of the
notebook as far as they are small.  A process that this one spawns gets the same from the task's file.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import os
import pickle
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

#: The task's file, for processes that a job's process spawns: they have no other way to know it.
TASK_VARIABLE = "TRAINKIT_TASK_FILE"
#: The module that such a process runs as its ``__main__``.
_SPAWNED = "trainkit.runners.spawned"
#: How much definitions may take that the task does not mention: one, and all of them.
DEFINITION_BYTES, DEFINITIONS_BYTES = 250_000, 5_000_000

#: Where the definitions are, pickled, in the namespace of the module.
_KNOWN = "__trainkit_definitions__"

#: The namespace that functions of ``__main__`` get that are being loaded; None for one of their own.
_namespace: dict[str, Any] | None = None
#: What was ``__main__`` before stays alive: its functions run.
_former: list[types.ModuleType] = []


class Globals:
    """Stands for the globals of ``__main__`` in a pickle.

    Args:
        attributes: of the module, that functions need beyond the globals that they mention.
    """

    def __init__(self, attributes: Mapping[str, Any]) -> None:
        self._attributes = dict(attributes)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return loaded_globals, (self._attributes,)


def globals_of_main() -> tuple[int, Globals]:
    """Return the identity of the globals of ``__main__``, and what stands for them in a pickle."""
    namespace = vars(sys.modules["__main__"])
    names = ("__name__", "__package__", "__file__")
    return id(namespace), Globals({name: namespace[name] for name in names if name in namespace})


def loaded_globals(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return the globals of the functions that are being loaded."""
    if _namespace is None:
        return attributes
    _namespace.update(attributes)
    return _namespace


def is_of_main(value: Any) -> bool:
    """Whether this is a class or function that pickle would look for in ``__main__``."""
    if not isinstance(value, (type, types.FunctionType)) or value.__module__ != "__main__":
        return False
    return vars(sys.modules["__main__"]).get(value.__name__) is value


def definitions(pickled: Callable[[Any, int], bytes]) -> dict[str, bytes]:
    """Return the classes and functions of ``__main__``, pickled one by one; what is large is left out.

    Args:
        pickled: pickles by value, and raises what it likes beyond a number of bytes.
    """
    main = sys.modules["__main__"]
    found: dict[str, bytes] = dict(vars(main).get(_KNOWN, {}))  # a job that submits a job passes its own on
    left_bytes = DEFINITIONS_BYTES
    for name, value in list(vars(main).items()):
        if not is_of_main(value) or name != value.__name__:
            continue
        # A definition that cannot travel is missed only where pickle looks for it, and there it is named.
        with contextlib.suppress(Exception):
            found[name] = pickled(value, min(DEFINITION_BYTES, left_bytes))
            left_bytes -= len(found[name])
    return found


class _Main(types.ModuleType):
    """The ``__main__`` of a job's process; what it does not have is looked for among the definitions."""

    def __init__(self, known: Mapping[str, bytes]) -> None:
        super().__init__("__main__")
        self.__spec__ = importlib.machinery.ModuleSpec(_SPAWNED, None)
        vars(self)[_KNOWN] = known

    def __getattr__(self, name: str) -> Any:
        if (data := vars(self)[_KNOWN].get(name)) is None:
            raise AttributeError(f"module '__main__' has no attribute {name!r}")
        value = pickle.loads(data)
        setattr(self, name, value)
        return value


@contextlib.contextmanager
def become_main(known: Mapping[str, bytes], task_file: str | None) -> Iterator[dict[str, Any]]:
    """Give this process a new ``__main__``; functions of ``__main__`` that are loaded meanwhile have its globals.

    Args:
        known: definitions, pickled.
        task_file: where processes that this one spawns find the task.

    Yields:
        The namespace of the module.
    """
    global _namespace
    main = _Main(known)
    _former.append(sys.modules["__main__"])
    sys.modules["__main__"] = main
    if task_file is not None:
        os.environ[TASK_VARIABLE] = task_file
    _namespace = vars(main)
    try:
        yield _namespace
    finally:
        _namespace = None
