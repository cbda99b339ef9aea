"""What the functions behind the routes know of the server: its folders, its address, its limits."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from trainkit.server.roots import Roots


@dataclass(frozen=True)
class Site:
    """One running server.

    Args:
        roots: the folders it may use.
        base_url: the path below which its routes are; begins and ends with ``/``.
        max_live_jobs: how many jobs of this user may run or wait on this machine before it starts no more.
        launching: held while jobs are counted and started, so that the limit is exact.
    """

    roots: Roots
    base_url: str = "/"
    max_live_jobs: int = 16
    launching: threading.Lock = field(default_factory=threading.Lock)
