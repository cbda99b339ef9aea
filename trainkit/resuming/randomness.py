"""Whether a job draws random numbers of its own, and so can be repeated: decided here, told in the record."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from trainkit.errors import OptionError
from trainkit.files.record import Randomness, Record
from trainkit.files.scalars import plain_value

OWN_GENERATORS = "it draws from generators of its own only"
OWN_PROCESS = "its process begins every attempt with this seed"
OWN_IN_A_THREAD = (
    "torch's random numbers are its own; those of numpy and of Python's random are the notebook's: "
    "if it needs them, numpy.random.default_rng(seed) makes its own"
)
SHARED = (
    "in a thread the random numbers are the notebook's, from which other cells and jobs draw too; "
    "submit(..., seed=...) gives it its own, and so does runner='process'"
)
DRAWN_MEANWHILE = (
    "while it ran, numbers were drawn from numpy's or Python's shared generator, by it or by others; "
    "numpy.random.default_rng(seed) makes its own"
)

#: Seeds from here on are refused; numpy takes no greater ones.
SEEDS = 2**32
_random = random.SystemRandom()


def check_seed(seed: object) -> int | None:
    """Return a seed if it is one.

    Raises:
        OptionError: not a whole number from 0 to 2**32 - 1.

    >>> check_seed(3)
    3
    """
    seed = plain_value(seed)
    if seed is None or (isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < SEEDS):
        return seed
    raise OptionError(f"seed={seed!r}: expected a whole number from 0 to {SEEDS - 1}")


def settle(record: Record) -> None:
    """Decide where the next attempt of a job gets its random numbers, and write that into its record."""
    seed, why = record.randomness.seed, record.randomness.why
    if why == OWN_GENERATORS:
        return
    if record.runner == "thread":
        told = Randomness(seed, seed is not None, SHARED if seed is None else OWN_IN_A_THREAD)
    else:
        told = Randomness(_random.randrange(SEEDS) if seed is None else seed, True, OWN_PROCESS)
    record.randomness = told


@contextmanager
def random_numbers(
    record: Record, *, warn: Callable[[str], None], note: Callable[[Randomness], None]
) -> Iterator[None]:
    """Give a job the random numbers that its record says it has.

    Args:
        record: of the job; settled.
        warn: told of an operation that draws from the notebook's numbers all the same.
        note: told if the job turns out not to be repeatable.
    """
    told = record.randomness
    if told.seed is None or told.why == OWN_GENERATORS:
        yield
        return
    if record.runner != "thread":
        seed_everything(told.seed)
        yield
        return
    from trainkit.resuming.ownrandom import own_random_numbers

    def shared(operation: str) -> None:
        why = f"{operation} takes no generator, so it draws from the notebook's random numbers"
        note(Randomness(told.seed, False, why))
        warn(f"the job cannot be repeated to the bit: {why}; runner='process' has its own")

    before = _shared_state()
    with own_random_numbers(told.seed, shared):
        yield
    if _shared_state() != before and record.randomness.reproducible:
        note(Randomness(told.seed, False, DRAWN_MEANWHILE))


def seed_everything(seed: int) -> None:
    """Seed the generators of Python, numpy and torch of this process.

    Both libraries are imported for it: one that the job imported later would begin with numbers of its own, and a
    repetition in a process that has it loaded already would draw others.
    """
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _shared_state() -> tuple[object, object]:
    numpy: object = None
    if "numpy" in sys.modules:
        import numpy as np

        numpy = repr(np.random.get_state(legacy=False))
    return random.getstate(), numpy
