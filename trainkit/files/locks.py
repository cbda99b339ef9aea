"""File locks that tell who is alive: held as long as their process lives, freed by the system when it dies.

These are ``flock`` locks.  They belong to the open file, not to the process: a child that inherits the
descriptor shares the lock, which is how a job is handed to another process without a gap.  POSIX record
locks would not do, since closing any other handle of the file drops them.  A file of the same name that takes the
place of a locked one is a second lock: so an owner's lock is removed only together with its job's folder, by who
holds it (``claims``), and whoever locks a file that others replace makes sure that it has the one that is there
(:func:`try_lock_as_it_is`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

from trainkit.errors import LockedError, telling
from trainkit.files.holders import who_holds
from trainkit.files.opening import open_fd

#: How often `try_lock` tries again when nothing but readers is in its way.
_READER_PATIENCE = 2000

#: Of a file system without locks.
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
_NO_LOCKS_ADVICE = (
    "this file system has no working file locks (flock), which trainkit needs to know who runs a job; choose a "
    "root on another file system, such as a local disk, with root= or TRAINKIT_ROOT"
)

_held: weakref.WeakSet[FileLock] = weakref.WeakSet()
#: Held while a lock file is opened or closed, until `_held` is right again: no fork may come in between.
_changing = threading.RLock()

if sys.platform == "win32":  # pragma: no cover - exercised on Windows only
    import msvcrt

    def _lock(fd: int, *, shared: bool) -> bool:
        # Windows locks are mandatory, so a byte far behind the content is locked. They are never shared.
        os.lseek(fd, 0x7FFF0000, os.SEEK_SET)
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _only_readers(fd: int) -> bool:
        return False
else:
    import fcntl

    def _lock(fd: int, *, shared: bool) -> bool:
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in _NO_LOCKS:
                raise OSError(error.errno, f"{os.strerror(error.errno)}: {_NO_LOCKS_ADVICE}") from error
            raise
        return True

    def _only_readers(fd: int) -> bool:
        """Whether those who refused the exclusive lock were readers that ask `is_locked`, not an owner."""
        if not _lock(fd, shared=True):
            return False
        fcntl.flock(fd, fcntl.LOCK_UN)
        return True


class FileLock:
    """One held lock.  Made by :func:`try_lock` or :meth:`inherited`."""

    def __init__(self, fd: int, path: Path) -> None:
        self.fd = fd
        self.path = path
        _held.add(self)

    @classmethod
    def inherited(cls, fd: int, path: Path) -> FileLock:
        """Take over a lock whose descriptor came from the parent process."""
        os.set_inheritable(fd, False)
        return cls(fd, path)

    def check_excludes(self) -> None:
        """Return if the lock keeps others away; some network and FUSE file systems give it to everybody.

        Raises:
            StoreError: it does not.
        """
        with _changing, telling(self.path):
            fd = open_fd(self.path, os.O_RDWR)
            try:
                if _lock(fd, shared=False):
                    raise OSError(errno.ENOLCK, f"two owners can hold the same lock here: {_NO_LOCKS_ADVICE}")
            finally:
                os.close(fd)

    def release(self) -> None:
        """Free the lock for good, also where another process has inherited a handle of it."""
        if self.fd >= 0 and sys.platform != "win32":
            with contextlib.suppress(OSError):  # closing frees it too, where nobody has inherited it
                fcntl.flock(self.fd, fcntl.LOCK_UN)
        self.close()

    def __del__(self) -> None:
        # Interrupted between taking the lock and noting it, its owner cannot give it back.
        with contextlib.suppress(Exception):  # the interpreter may be on its way out
            self.close()

    def close(self) -> None:
        """Give up this handle.  The lock is freed once no process has a handle of it left."""
        with _changing:
            fd, self.fd = self.fd, -1
            if fd >= 0:
                os.close(fd)


def try_lock(path: Path) -> FileLock | None:
    """Take the lock of a file, which is created if needed; None if somebody else holds it.

    Raises:
        StoreError: there is no such folder, or it cannot be written.
    """
    for _ in range(_READER_PATIENCE):
        with _changing, telling(path):
            fd = open_fd(path, os.O_RDWR | os.O_CREAT)
            try:
                if _lock(fd, shared=False):
                    return FileLock(fd, path)
                only_readers = _only_readers(fd)
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
        if not only_readers:
            break
        time.sleep(0.0005)  # a reader holds its shared lock for some microseconds
    return None


def try_lock_as_it_is(path: Path) -> FileLock | None:
    """Take the lock of a file that is there; None if somebody else holds it, or has replaced it meanwhile.

    Raises:
        OSError: it cannot be opened.
    """
    with _changing:
        fd = open_fd(path, os.O_RDWR)
        try:
            if _lock(fd, shared=False) and os.path.samestat(os.fstat(fd), os.stat(path)):
                return FileLock(fd, path)
        except FileNotFoundError:
            pass  # removed by who held it
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
    return None


def is_locked(path: Path) -> bool | None:
    """Whether somebody holds the lock of a file; None if there is no such file.

    Raises:
        StoreError: it cannot be asked.
    """
    # In a function of its own: between `with` and a `try` below it there is an instruction that nothing covers.
    with _changing, telling(path):
        return _is_locked(path)


def _is_locked(path: Path) -> bool | None:
    try:
        fd = open_fd(path, os.O_RDONLY if sys.platform != "win32" else os.O_RDWR)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        # Shared, so that two readers that ask at once do not take each other for an owner.
        return not _lock(fd, shared=True)
    finally:
        os.close(fd)


@contextlib.contextmanager
def locked(
    path: Path,
    *,
    timeout_s: float = 10.0,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> Iterator[None]:
    """Hold the lock of a file for a short critical section.

    Raises:
        LockedError: somebody has held it for longer than ``timeout_s``; the message says who.
    """
    give_up_at = clock() + timeout_s
    while (lock := try_lock(path)) is None:
        if clock() > give_up_at:
            holder = who_holds(path)
            raise LockedError(f"{path} has been locked for more than {timeout_s:g} s by {holder}", holder=holder)
        pause(0.002)
    try:
        yield
    finally:
        lock.release()


def _close_in_forked_child() -> None:
    """A forked child (a DataLoader worker, say) must not keep its parent's locks alive."""
    _changing.release()
    for lock in list(_held):
        lock.close()


if hasattr(os, "register_at_fork"):
    # Forked between opening and noting, a child would keep the lock; after closing, it would close another file.
    os.register_at_fork(
        before=_changing.acquire, after_in_parent=_changing.release, after_in_child=_close_in_forked_child
    )
