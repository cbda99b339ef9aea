"""How the threads that compute a step together wait for each other: awake for microseconds, and not for longer.

By default GNU's OpenMP, which torch's wheels for Linux bring along, has a thread wait for the others of its team
wide awake for some milliseconds.  Where something else wants the cores, a notebook that computes or another job,
each such wait keeps from its core the very thread that it waits for: steps took ten times as long, and more.
Source: GOMP_SPINCOUNT and OMP_WAIT_POLICY, https://gcc.gnu.org/onlinedocs/libgomp/Environment-Variables.html
"""

from __future__ import annotations

from collections.abc import MutableMapping

#: Some twenty microseconds: enough for most waits within a step of milliseconds where the cores are free.
_SPINS = "500"
#: Who sets one of these has chosen.
CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def wait_briefly(environment: MutableMapping[str, str]) -> None:
    """Have the threads of torch wait so, unless it was chosen otherwise.

    Args:
        environment: of a process that has not imported torch yet; it is read once, when that happens.

    >>> environment = {}
    >>> wait_briefly(environment)
    >>> environment
    {'GOMP_SPINCOUNT': '500'}
    """
    if environment.keys().isdisjoint(CHOICES):
        environment["GOMP_SPINCOUNT"] = _SPINS
