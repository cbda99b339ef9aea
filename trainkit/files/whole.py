"""Files that are read whole, and replaced whole: readers see the old content or the new, never anything else."""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import itertools
import os
import shutil
import uuid
from pathlib import Path

from trainkit.errors import telling
from trainkit.files.opening import open_fd, opened
from trainkit.files.streams import write_all

_AT_ONCE = 1 << 16


def write_atomically(path: Path, data: bytes, *, durable: bool, private: bool = False) -> None:
    """Replace a file so that readers see the old content or the new, never anything else.

    Args:
        path: the file.
        data: its new content.
        durable: also survive a loss of power from here on; costs about 10 ms.
        private: only this user may read it, whatever the umask.

    Raises:
        StoreError: it could not be written; the old content is there still, or the new one but not safely.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    with telling(path):
        fd = open_fd(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666)
        try:
            try:
                write_all(fd, data)
                if durable:
                    os.fsync(fd)
            finally:
                os.close(fd)
            os.replace(temporary, path)
        except BaseException:
            remove_temporary(temporary)
            raise
        if durable:
            sync_folder(path.parent)


def remove_temporary(path: Path) -> None:
    """Remove a temporary file that did not get its place."""
    # What cannot be removed now is swept later; the error that brought us here is the one to tell.
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def read_whole(path: str | Path, *, most_bytes: int | None = None) -> bytes:
    """Return what is in a file: as ``Path.read_bytes`` does, in half the time for a small one.

    Args:
        path: the file; a link, a folder or a pipe is an ``OSError`` (see :mod:`trainkit.files.opening`).
        most_bytes: refuse a file that is larger.

    Raises:
        OSError: it cannot be read.
    """
    fd = open_fd(path, os.O_RDONLY)
    try:
        if most_bytes is not None and (size := os.fstat(fd).st_size) > most_bytes:
            raise OSError(errno.EFBIG, f"it has {size:,} bytes, more than the {most_bytes:,} that are read")
        data = os.read(fd, _AT_ONCE)
        if not (more := os.read(fd, _AT_ONCE)):
            return data
        with open(fd, "rb", closefd=False) as rest:  # to add them one by one takes the square of the time
            return b"".join((data, more, rest.read()))
    finally:
        os.close(fd)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file and who may read it; neither of the two may be a link.

    Raises:
        OSError: it cannot be copied.
    """
    with opened(source) as old:
        readers = os.fstat(old.fileno()).st_mode & 0o666
        with os.fdopen(open_fd(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, readers), "wb") as new:
            shutil.copyfileobj(old, new, 1 << 20)


def matching(folder: Path, pattern: str) -> list[Path]:
    """Return what matches in a folder, sorted; nothing where there is no such folder.

    ``Path.glob`` takes a folder that may not be looked into for an empty one.

    Raises:
        StoreError: it cannot be looked into.
    """
    with telling(folder):
        try:
            names = os.listdir(folder)
        except (FileNotFoundError, NotADirectoryError):
            return []
    return [folder / name for name in sorted(fnmatch.filter(names, pattern))]


def make_folders(folder: Path) -> list[Path]:
    """Make a folder and those above it; return those that were missing, the lowest first.

    Raises:
        OSError: one cannot be made.
    """
    missing = list(itertools.takewhile(lambda each: not each.exists(), (folder, *folder.parents)))
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def sync(path: Path) -> None:
    """Return when the content of a file, or the names in a folder, are on the disk.  It may be missing."""
    with contextlib.suppress(FileNotFoundError):
        if path.is_dir():
            sync_folder(path)
        else:
            with opened(path, "rb") as file:
                os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Return when the names in a folder are on the disk, where the system can say so."""
    if os.name != "posix":  # pragma: no cover - Windows cannot open a folder
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
