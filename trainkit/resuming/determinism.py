"""What decides about the last bits of a result: random generators, threads, processor."""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from trainkit.resuming.states import is_generator, part_of

#: All whose random generators are kept where they are a run's own.
LIBRARIES = ("python", "numpy", "torch", "cuda")
#: How deep, and how far, a dataset is searched for generators: a subset of one with a list of transforms has four.
_DEPTH, _ITEMS = 6, 50


def random_state(libraries: Collection[str] = LIBRARIES) -> dict[str, Any]:
    """Return the state of the random generators of python, numpy and torch; quick, to be taken every epoch.

    Libraries that are not loaded have no state to keep.
    """
    state: dict[str, Any] = {}
    if "python" in libraries:
        state["python"] = random.getstate()
    if "numpy" in libraries and "numpy" in sys.modules:
        import numpy as np

        state["numpy"] = np.random.get_state(legacy=True)
    if "torch" in libraries and "torch" in sys.modules:
        import torch

        state["torch"] = torch.get_rng_state()
        if "cuda" in libraries and torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def plain_random_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a random state in plain types and tensors, as a checkpoint can hold it."""
    plain = dict(state)
    if "python" in state:
        version, internal, gauss = state["python"]
        plain["python"] = [version, list(internal), gauss]
    if "numpy" in state:
        name, keys, position, has_gauss, cached = state["numpy"]
        plain["numpy"] = [str(name), [int(key) for key in keys], int(position), int(has_gauss), float(cached)]
    return plain


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Bring back a state of :func:`random_state` or :func:`plain_random_state`."""
    if "python" in state:
        version, internal, gauss = state["python"]
        random.setstate((version, tuple(internal), gauss))
    if "numpy" in state:
        import numpy as np

        name, keys, position, has_gauss, cached = state["numpy"]
        np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    if "torch" in state:
        import torch

        torch.set_rng_state(state["torch"])
        if "cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda"])


def compute_state() -> dict[str, Any]:
    """Return what besides the random numbers decides about the last bits of a result."""
    if "torch" not in sys.modules:
        return {}
    import torch

    return {"threads": torch.get_num_threads(), "cpu": torch.backends.cpu.get_cpu_capability()}


def restore_compute(state: Mapping[str, Any], *, own_process: bool = True) -> list[str]:
    """Set the number of threads as it was, where the process is the run's; return what else differs, in words."""
    if not state:
        return []
    import torch

    if own_process:
        torch.set_num_threads(state["threads"])
    now, threads = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    differences = [] if now == state["cpu"] else [f"the processor computes with {now}, it was {state['cpu']}"]
    if threads != state["threads"]:
        differences.append(f"torch computes in {threads} threads, it was {state['threads']}")
    return differences


def doubts_of_loader(loader: Any, tracked: Collection[Any] = ()) -> list[str]:
    """Return what of a loader cannot be brought back to where it was, in words.

    Args:
        loader: any iterable of batches.
        tracked: what is brought back with the run.
    """
    doubts = []
    workers = part_of(loader, "num_workers")
    if workers and part_of(loader, "persistent_workers"):
        doubts.append(
            "the loader keeps its workers from epoch to epoch (persistent_workers=True), whose random numbers and "
            "order of rows begin anew; persistent_workers=False begins them with each epoch"
        )
    for name, generator in _generators_in(part_of(loader, "dataset"), "", _DEPTH):
        if not workers and any(generator is each for each in tracked):
            continue  # it is brought back with the rest
        where = "a copy of which each worker draws from" if workers else "which begins anew"
        doubts.append(
            f"its dataset draws from a generator of its own ({name}), {where}; draw from one that is made of "
            "(seed, epoch, index), or without workers track it: run.track(...)"
        )
    return doubts


def _generators_in(thing: Any, name: str, depth: int) -> Iterator[tuple[str, Any]]:
    """Yield the random generators that a thing holds, or what it is made of: subsets, transforms, lists."""
    if is_generator(thing):
        yield name, thing
    elif depth == 0 or isinstance(thing, type):
        return
    elif isinstance(thing, (list, tuple, dict)):
        items = thing.items() if isinstance(thing, dict) else enumerate(thing)
        for key, each in itertools.islice(items, _ITEMS):
            yield from _generators_in(each, f"{name}[{key!r}]", depth - 1)
    elif part_of(thing, "__dict__") is not None and part_of(thing, "dtype") is None:
        for key, each in list(vars(thing).items()):
            yield from _generators_in(each, f"{name}.{key}".lstrip("."), depth - 1)
