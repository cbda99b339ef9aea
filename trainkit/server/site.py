"""What the functions behind the routes know of the server: its folders, its address, its limits."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from trainkit.runners.slots import live_job_ids
from trainkit.server.index import Index
from trainkit.server.problems import RefusedError
from trainkit.server.roots import Roots


@dataclass(frozen=True)
class Site:
    """One running server.

    Args:
        roots: the folders it may use.
        base_url: the path below which its routes are; begins and ends with ``/``.
        max_live_jobs: how many jobs of this user may run or wait on this machine before it starts no more.
        launching: held while jobs are counted and started, so that the limit is exact.
        checking: held while a table is checked, of which few are at once.
        index: the jobs that were seen.
    """

    roots: Roots
    base_url: str = "/"
    max_live_jobs: int = 16
    launching: threading.Lock = field(default_factory=threading.Lock)
    checking: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(2))
    index: Index = field(default_factory=Index)

    def refuse_one_more(self) -> None:
        """Let pass if one more job may be started; exact only while ``launching`` is held.

        Raises:
            RefusedError: 429, there are too many.
        """
        live = len(live_job_ids())
        if live >= self.max_live_jobs:
            raise RefusedError(
                429,
                f"{live} jobs run or wait on this machine, and {self.max_live_jobs} may; try again when one has "
                "ended, or set TrainkitApp.max_live_jobs",
            )
