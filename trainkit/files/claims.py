"""Taking a job id, and giving it up: who makes, resumes and deletes jobs of one id, and in which order.

The folder of a job holds its owner's lock, and the two go together.  Whoever makes a job makes its folder, takes
that lock and writes the record last; whoever deletes one holds the lock of the record *and* the owner's, moves the
folder out of the way in one step, and removes the record last.  So a record without a folder is a job that nobody
runs, which can be deleted; a folder without a record is an id that somebody is taking, or nobody's.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from trainkit.errors import StoreError, telling
from trainkit.files.locks import FileLock, try_lock, try_lock_as_it_is
from trainkit.files.opening import NOT_A_FILE
from trainkit.files.paths import JobPaths
from trainkit.files.whole import matching, remove_temporary

#: How often the folder of a job is tried to be removed while others put a lock into it.
_RMDIR_ATTEMPTS = 100


def claim(paths: JobPaths) -> FileLock | None:
    """Make the folder of a new job and take its owner's lock; None if it is somebody's already.

    Raises:
        OSError: the folder cannot be made.
    """
    try:
        paths.folder.mkdir()
    except FileExistsError:
        # Somebody may have been killed when about to do the same: what has no record and no content is free.
        if any(not stat.S_ISREG((found := path.lstat()).st_mode) or found.st_size for path in _inside(paths)):
            return None
        made = False
    else:
        made = True
    lock = None
    try:
        lock = try_lock(paths.owner_lock)
        if lock is not None:
            lock.check_excludes()
    except BaseException:
        if lock is not None:
            lock.close()
        if made:  # and nobody else can have put anything into it that counts
            with contextlib.suppress(OSError):
                paths.owner_lock.unlink(missing_ok=True)
                paths.folder.rmdir()
        raise
    if lock is not None and (paths.record.exists() or not paths.owner_lock.exists()):
        lock.close()  # somebody else was quicker, to make it or to remove it
        return None
    return lock


@contextlib.contextmanager
def held_to_remove(paths: JobPaths) -> Iterator[bool]:
    """Keep away who else would run or delete a job; whether nobody does.

    The owner's lock goes with the job's folder, before the record does.  As long as the record is there, nobody
    makes a job of that id; and only one can hold it.
    """
    with contextlib.ExitStack() as holding:
        try:
            record = try_lock_as_it_is(paths.record)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not paths.record.is_symlink():
                yield False  # somebody has just deleted it: what comes now is somebody's new job
                return
            # What is there cannot be opened: a damaged record.
        else:
            if record is None:
                yield False
                return
            holding.callback(record.close)
        if paths.owner_lock.exists():
            try:
                owner = try_lock(paths.owner_lock)
            except StoreError as error:
                if error.errno not in NOT_A_FILE:
                    raise
            else:
                if owner is None:
                    yield False
                    return
                holding.callback(owner.close)
        yield True


def remove_if_free(paths: JobPaths) -> bool:
    """Remove all files of a job unless somebody runs or deletes it; return whether they were removed.

    Raises:
        StoreError: not all could be removed.
    """
    with held_to_remove(paths) as held:
        if held:
            remove(paths)
    return held


def remove(paths: JobPaths) -> None:
    """Remove all files of a job; its holder alone may call this.  The record goes last.

    Raises:
        StoreError: not all could be removed.
    """
    with telling(paths.folder):
        if paths.folder.is_symlink():
            paths.folder.unlink()
        elif paths.folder.exists():
            _move_away(paths)
        for path in _left_by_kills(paths):
            _remove_one(path)
        with contextlib.suppress(NotADirectoryError):  # a file is in the place of the folder of models
            paths.model.unlink(missing_ok=True)
        paths.record.unlink(missing_ok=True)


def _move_away(paths: JobPaths) -> None:
    """Move the folder of a job, in one step, out of the way of others who make or resume a job of that id."""
    try:
        paths.folder.rename(paths.record.with_name(f".{paths.job_id}.{uuid.uuid4().hex}.tmp"))
    except OSError as error:
        # A folder of a lower layer of an overlay cannot be renamed: in a container, one that its image has.
        if error.errno != errno.EXDEV:
            raise
        _remove_in_place(paths)


def _remove_in_place(paths: JobPaths) -> None:
    """Remove the folder of a job, the lock last: a process that resumes it meanwhile finds no checkpoint."""
    for path in _inside(paths):
        if path != paths.owner_lock:
            _remove_one(path)
    for attempt in itertools.count():
        _remove_one(paths.owner_lock)
        try:
            paths.folder.rmdir()
            return
        except OSError as error:
            # The lock of a process that tries to resume the job, and will give it up.
            if error.errno != errno.ENOTEMPTY or attempt == _RMDIR_ATTEMPTS:
                raise
            time.sleep(0.01)


def _remove_one(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _inside(paths: JobPaths) -> list[Path]:
    return list(paths.folder.iterdir())


def sweep(paths: JobPaths) -> None:
    """Remove the temporary files that kills have left; only the owner may call this."""
    with contextlib.suppress(StoreError):  # what cannot be seen now is swept later
        for path in _left_by_kills(paths):
            remove_temporary(path)
        for folder in (paths.folder, paths.checkpoints):
            for path in matching(folder, ".*.tmp"):
                remove_temporary(path)


def _left_by_kills(paths: JobPaths) -> Iterator[Path]:
    """Temporary files beside the record and the model, and folders of a job that was being deleted."""
    for folder in (paths.record.parent, paths.model.parent):
        yield from matching(folder, f".{paths.job_id}.*.tmp")
