"""Opening the files of a job: never through a link, and never waiting.

A root folder may come from anywhere, such as a download or a folder that is shared with others. A link among the
files of a job would let ``stop`` append to another file, and reading a pipe would wait for ever. So each file of a
job is opened by :func:`open_fd` or :func:`opened`. The root folder itself, ``artifacts``, ``artifacts/jobs`` and
``models`` may be links: the user who chose the root chose them.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO, TextIO, cast

from trainkit.errors import StoreError

#: Where the layout of a root folder ends and that of one job begins; see :mod:`trainkit.files.paths`.
_JOBS = f"{os.sep}artifacts{os.sep}jobs{os.sep}"
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0) | _NO_LINK
#: The numbers of the errors of a link, and of what is not a regular file.
NOT_A_FILE = frozenset({errno.ELOOP, errno.EINVAL})
#: What the system reports of a link that may not be followed: Linux and macOS, FreeBSD, NetBSD.
_IS_LINK = frozenset({errno.ELOOP, errno.EMLINK, getattr(errno, "EFTYPE", errno.ELOOP)})


def open_fd(path: str | os.PathLike[str], flags: int, mode: int = 0o666) -> int:
    """Open a regular file as ``os.open`` does, following no link within the folder of a job.

    Raises:
        StoreError: the file, or a folder of the job that it is in, is a link; or it is not a regular file.
        OSError: it cannot be opened.
    """
    path = os.fspath(path)
    flags |= _NO_LINK | _NO_WAIT
    base, found, rest = path.rpartition(_JOBS)
    if not found or os.sep not in rest:  # a record, or a file that is not a job's
        return _regular(_open(path, flags, mode), path)
    if os.open not in os.supports_dir_fd:  # pragma: no cover - Windows
        check_no_link(path)
        return _regular(_open(path, flags, mode), path)
    *folders, name = rest.split(os.sep)
    at, fd = f"{base}{_JOBS}", None
    try:
        for folder in folders:
            at = os.path.join(at, folder)
            below, fd = fd, _open(at if fd is None else folder, _FOLDER, 0, dir_fd=fd, shown=at)
            if below is not None:
                os.close(below)
        return _regular(_open(name, flags, mode, dir_fd=fd, shown=path), path)
    finally:
        if fd is not None:
            os.close(fd)


def opened(path: str | os.PathLike[str], mode: str = "rb") -> BinaryIO:
    """Open a file of a job in a binary mode as ``open`` does, by :func:`open_fd`.  Raises as that."""
    return cast("BinaryIO", open(path, mode, opener=open_fd))


def opened_as_text(path: str | os.PathLike[str], mode: str = "r", *, errors: str, buffering: int = -1) -> TextIO:
    """Open a file of a job in a text mode as ``open`` does, by :func:`open_fd`.  Raises as that."""
    made = open(path, mode, buffering=buffering, encoding="utf-8", errors=errors, opener=open_fd)  # noqa: SIM115
    return cast("TextIO", made)


def check_no_link(path: str | os.PathLike[str]) -> None:
    """Let a path pass that is not a link and, below the folder of a job, leads through none.

    Raises:
        StoreError: there is a link.
    """
    path = os.fspath(path)
    base, found, rest = path.rpartition(_JOBS)
    at = f"{base}{found}"
    for name in rest.split(os.sep) if found else [rest]:
        at = os.path.join(at, name)
        if os.path.islink(at):
            raise _link(at)


def _open(path: str, flags: int, mode: int, *, dir_fd: int | None = None, shown: str | None = None) -> int:
    try:
        return os.open(path, flags, mode, dir_fd=dir_fd)
    except OSError as error:
        shown = shown or path
        if error.errno in _IS_LINK or (error.errno == errno.ENOTDIR and os.path.islink(shown)):
            raise _link(shown) from error
        # A pipe without a reader, or a folder, that is opened for writing; or a socket.
        if error.errno in (errno.ENXIO, errno.EISDIR):
            raise _no_file(shown) from error
        error.filename = shown
        raise


def _regular(fd: int, path: str) -> int:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise _no_file(path)
    return fd


def _link(path: str) -> StoreError:
    error = StoreError(
        f"{path} is a link; links among the files of a job are not followed. Replace it with the file itself"
    )
    error.errno = errno.ELOOP
    return error


def _no_file(path: str) -> StoreError:
    kind = "folder" if Path(path).is_dir() else "pipe, socket or device"
    error = StoreError(f"{path} is not a regular file but a {kind}; move it away")
    error.errno = errno.EINVAL
    return error
