"""Where jobs run.  A runner is one small module with five functions: check, submit, address_again, poll, kill.

To add one, write the module and name it in :data:`RUNNERS` and in the contract test.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:  # a starter imports this package, and nothing that takes time
    from trainkit.files.locks import FileLock
    from trainkit.files.record import Record
    from trainkit.files.store import Handle, Store
    from trainkit.runners.slots import Ticket
    from trainkit.runners.task import Task

#: The name that users type, and the module.
RUNNERS = {
    "thread": "trainkit.runners.thread",
    "process": "trainkit.runners.process",
    "ray": "trainkit.runners.ray",
}


class Runner(Protocol):
    """The contract."""

    def check(self, record: Record) -> None:
        """Refuse a job that cannot run here, before anything is made.

        Raises:
            OptionError: it asks for what this runner cannot do.
            RunnerError: it cannot run on this machine.
            MissingExtraError: something is not installed.
        """

    def submit(
        self, store: Store, record: Record, task: Task | None, lock: FileLock, ticket: Ticket, handle: Handle
    ) -> None:
        """Take over a job whose files are made, and return at once.

        The task is None when a job is resumed: it is in ``task.pkl``.  The handle says where the requests of
        this attempt begin; the runner adds its processes and writes it.  From here on the runner holds the
        owner's lock and the place in the queue, until the job has ended.
        """

    def address_again(self, store: Store, record: Record) -> str | None:
        """Return the address of the cluster that a job from the files had; None where there is no cluster.

        Raises:
            TrustError: it is not known to be an address that this user named.
        """

    def poll(self, store: Store, record: Record) -> bool | None:
        """Whether somebody runs the job; None if that cannot be known from here."""

    def kill(self, store: Store, record: Record) -> None:
        """End the job's processes now.

        Raises:
            RunnerError: this runner has no process of its own to kill.
        """


def outliving(name: str | None) -> str:
    """Return the runner for another attempt or a copy of a job, started by a process that may soon end.

    Args:
        name: the runner that the job had.

    >>> outliving("thread"), outliving("ray")
    ('process', 'ray')
    """
    return "process" if name is None or name == "thread" else name


def runner(name: str) -> Runner:
    """Return a runner by its name.

    Raises:
        OptionError: there is none of that name.
    """
    if name not in RUNNERS:
        from trainkit.errors import OptionError, did_you_mean

        allowed = ", ".join(map(repr, RUNNERS))
        raise OptionError(f"runner={name!r} is not known{did_you_mean(str(name), RUNNERS)}; runners: {allowed}")
    return cast("Runner", importlib.import_module(RUNNERS[name]))
