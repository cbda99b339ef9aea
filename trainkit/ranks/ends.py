"""How ranks end that do not come to their end, and what that means for their job.

A rank writes down its own exception; of a rank that was killed, who saw it die writes that.  Each rank has a
file of its own, so that there is one writer to each.
"""

from __future__ import annotations

import time

import msgspec

from trainkit.errors import telling
from trainkit.files.endings import Ending
from trainkit.files.paths import JobPaths
from trainkit.files.record import EndedBy, ErrorInfo, Status
from trainkit.files.whole import matching, read_whole, write_atomically

#: The type of error of a rank that has lost another one.
LOST_ANOTHER = "LostRank"


class RankEndError(Exception):
    """A rank ended without having come to its end; why is written down."""


class RankEnd(msgspec.Struct, frozen=True):
    """How a rank ended.

    ``lost`` says that it was not its own doing: it was killed, its machine is gone, or another rank is.
    """

    rank: int
    error: ErrorInfo
    lost: bool
    time: float

    @property
    def by_another(self) -> bool:
        """Whether all that this rank knows is that it lost another one."""
        return self.error.type == LOST_ANOTHER


def tell_rank_end(paths: JobPaths, rank: int, error: ErrorInfo, *, lost: bool) -> None:
    """Write down how a rank ended, unless that is known already."""
    path = paths.rank_end(rank)
    if not path.exists():
        end = RankEnd(rank=rank, error=error, lost=lost, time=time.time())
        write_atomically(path, msgspec.json.encode(end), durable=False)


def rank_ends(paths: JobPaths) -> list[RankEnd]:
    """Return what is known of the ends of ranks: those to blame first, those who only lost another one last.

    Raises:
        StoreError: it cannot be read.
    """
    with telling(paths.folder):
        written = [read_whole(path) for path in matching(paths.folder, "rank-*.end.json")]
    found = [msgspec.json.decode(data, type=RankEnd) for data in written]
    return sorted(found, key=lambda end: (end.lost, end.by_another, end.time))


def cause_of_end(ends: list[RankEnd]) -> Ending | None:
    """Return how the job of such ranks ended, or None if no rank tells.

    An exception of the training code goes before a signal, and a signal before the errors of those who lost
    the rank that it killed.
    """
    if not ends:
        return None
    for end in ends:
        if not end.lost:
            first_line = (end.error.message.splitlines() or [""])[0]
            told = f"{end.error.type}: {first_line}".rstrip(": ")
            return Ending(Status.FAILED, EndedBy.EXCEPTION, f"{told} (rank {end.rank})", end.error)
    for end in ends:
        if end.error.type.startswith("SIG"):
            return Ending(Status.INTERRUPTED, EndedBy.SIGNAL, end.error.message, end.error)
    return Ending(Status.INTERRUPTED, EndedBy.LOST, ends[0].error.message, ends[0].error)


def bring_back_what_was_raised(paths: JobPaths, ends: list[RankEnd]) -> None:
    """Make the exception of the rank that is to blame what the job raised, if it could be pickled.

    Raises:
        StoreError: that cannot be done.
    """
    with telling(paths.result):
        if ends and not ends[0].lost and (raised := paths.rank_result(ends[0].rank)).exists():
            raised.replace(paths.result)


def forget_rank_ends(paths: JobPaths) -> None:
    """Remove what an earlier attempt has left."""
    for pattern in ("rank-*.end.json", "rank-*.result.pkl"):
        for path in matching(paths.folder, pattern):
            path.unlink(missing_ok=True)
