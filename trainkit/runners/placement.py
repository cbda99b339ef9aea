"""What a job may be asked to run on, checked before anything is made."""

from __future__ import annotations

from typing import Any

from trainkit.errors import OptionError
from trainkit.files.record import Resources
from trainkit.files.scalars import plain_value

#: Most ranks of one job: beyond this a typing error is likelier than a cluster.
MOST_RANKS = 10_000


def check_resources(*, ranks: Any = 1, gpus_per_rank: Any = 0, retries: Any = 0, address: Any = None) -> Resources:
    """Return what a job is asked to run on.

    Args:
        ranks: how many processes train together.
        gpus_per_rank: how many GPUs each of them needs.
        retries: how often they are started again when one of them, or its machine, is lost.
        address: of a cluster's dashboard, or ``"local"``.

    Raises:
        OptionError: a value that is out of range.

    >>> check_resources(ranks=2).ranks
    2
    """
    ranks, gpus_per_rank, retries = map(plain_value, (ranks, gpus_per_rank, retries))
    for name, value, least, most in (
        ("ranks", ranks, 1, MOST_RANKS),
        ("gpus_per_rank", gpus_per_rank, 0, 64),
        ("retries", retries, 0, 1000),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise OptionError(f"{name}={value!r}: expected a whole number from {least} to {most}")
    if address is not None and (not isinstance(address, str) or not address.strip()):
        raise OptionError(f"address={address!r}: expected that of a cluster's dashboard, or 'local'")
    return Resources(ranks=ranks, gpus_per_rank=gpus_per_rank, retries=retries, address=address)


def suitable_runner(resources: Resources) -> str:
    """Return the simplest runner that can do what is asked for.

    >>> [suitable_runner(each) for each in (Resources(), Resources(ranks=2), Resources(address="local"))]
    ['thread', 'process', 'ray']
    """
    if resources.address is not None:
        return "ray"
    return "thread" if resources == Resources() else "process"
