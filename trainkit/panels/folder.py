"""Which names in a folder may lead to another file than at the last look."""

from __future__ import annotations

import os
import sys
import time
import weakref
from collections.abc import Callable

if sys.platform == "linux":
    from inotify_simple import INotify, flags

#: Also where the system tells what changes, all names are looked at this often, and whether it told is judged.
EVERY_S = 10.0
_SAME_TIME_NS = 100_000_000


class Folder:
    """A folder whose files are replaced, never rewritten in place.

    Linux tells what is done to a folder (inotify), so that a look costs the same however many files there are.
    It does not tell what another machine does to a shared one.  So the folder's time is looked at too, and all
    names are now and then.  If something was done without a word, all names are looked at whenever the time has
    changed from then on, as is done on other systems.

    Args:
        path: of the folder, which need not be there yet.
        clock: seconds, from any beginning.

    Attributes:
        told: whether the system tells of all that is done to the folder, as far as is known.
    """

    def __init__(self, path: str | os.PathLike[str], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = os.fspath(path), clock
        self.told = sys.platform == "linux"
        self._numbers: dict[str, int] = {}  # of the file that each name led to when all were looked at
        self._told_since: set[str] = set()
        self._looked_at = 0.0
        self._changed_ns = 0
        self._watched: tuple[int, int] | None = None
        self._new_notices: Callable[[], set[str]] = set
        self._close: Callable[[], object] = lambda: None

    def look(self) -> set[str]:
        """Return the names that lead to another file than at the last look, or nowhere now; some may not."""
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            gone, self._numbers, self._watched = self._numbers.keys() | self._told_since, {}, None
            self._told_since = set()
            return gone
        anew = self._watch((found.st_dev, found.st_ino))
        names = self._new_notices()
        self._told_since |= names
        # What was written a moment ago may have the same time as what is written next.
        still = found.st_mtime_ns == self._changed_ns and time.time_ns() - found.st_mtime_ns > _SAME_TIME_NS
        self._changed_ns = found.st_mtime_ns
        late = self._clock() - self._looked_at >= EVERY_S
        if anew or not (still or (self.told and names and not late)):
            names |= self._look_at_all(judge=not anew)
        return names

    def _look_at_all(self, *, judge: bool) -> set[str]:
        with os.scandir(self._path) as entries:
            found = {entry.name: entry.inode() for entry in entries}
        known, self._numbers = self._numbers, found
        other = {name for name, number in found.items() if known.get(name) != number}
        if len(found) - sum(name not in known for name in other) != len(known):
            other |= known.keys() - found.keys()
        meanwhile = self._new_notices()
        other -= self._told_since  # which were returned before, or are with these
        if judge and not other <= meanwhile:
            self.told = False
        self._told_since, self._looked_at = meanwhile, self._clock()
        return other | meanwhile

    def _watch(self, folder: tuple[int, int]) -> bool:
        """Have the system tell of the folder that is at the path now; return whether it is another than before."""
        if folder == self._watched:
            return False
        self._watched = folder
        self._close()
        if sys.platform == "linux":
            try:
                notices = INotify()
                self._close = weakref.finalize(self, notices.close)
                notices.add_watch(self._path, flags.CREATE | flags.DELETE | flags.MOVED_FROM | flags.MOVED_TO)
            except OSError:
                self.told = False  # as many folders are watched as the system allows
                self._new_notices = set
            else:
                self._new_notices = lambda: {notice.name for notice in notices.read(0)}
        return True
