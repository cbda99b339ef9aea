"""What this user's own jobs have written, in folders where other people may write, too.

A pickle runs code when it is loaded, and an address in a file is one that this process would connect to.  So both
carry a mark that only this user can make: a keyed hash (HMAC).  The key is in the user's private state folder,
``$XDG_STATE_HOME/trainkit`` or ``~/.local/state/trainkit``, and only the user can read it.

A job's marks are made with a key of its own, which is derived from the user's key and the job's id.  The user's
key may not be on the machines of a cluster.  There the job's key is passed in the environment of the job
(:data:`JOB_KEY_VARIABLE`), never in a file.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from trainkit.errors import StoreError, TrustError

#: The key of one job, for a process of it that may not see the user's key: ``<job id>:<64 hexadecimal digits>``.
JOB_KEY_VARIABLE = "TRAINKIT_JOB_KEY"
STATE_VARIABLE = "XDG_STATE_HOME"
_KEY_BYTES = 32
_SEAL = b"\ntrainkit "
#: The seal of a file: a checksum, which shows damage, and the mark, which shows who wrote it.
_SEAL_BYTES = len(_SEAL) + 64 + 1 + 64 + 1

_keys: dict[Path, bytes] = {}


def job_key(job_id: str) -> str:
    """Return the key of a job.

    Raises:
        StoreError: this user has no folder where a key can be kept.
    """
    name, _, passed_on = os.environ.get(JOB_KEY_VARIABLE, "").partition(":")
    return passed_on if passed_on and name == job_id else derived("job", job_id)


def derived(*purpose: str) -> str:
    """Return a secret of this user's for one purpose, the same in each process: 64 hexadecimal digits.

    Raises:
        StoreError: this user has no folder where a key can be kept.
    """
    return _keyed(_user_key(), *purpose)


def mark(job_id: str, *said: str) -> str:
    """Return the mark of what a job of this user's says."""
    return _keyed(bytes.fromhex(job_key(job_id)), *said)


def is_marked(found: object, job_id: str, *said: str) -> bool:
    """Whether a mark is that of :func:`mark`."""
    return isinstance(found, str) and found.isascii() and hmac.compare_digest(found, mark(job_id, *said))


def seal(data: bytes | memoryview, key: str, kind: str) -> bytes:
    """Return what is to be appended to a pickle, so that :func:`verify` accepts it; unpickling ignores it.

    Args:
        data: the pickle.
        key: that of its job, from :func:`job_key`.
        kind: what it is, so that one file cannot take the place of another.
    """
    checksum = hashlib.sha256(data).hexdigest()
    return _SEAL + f"{checksum} {_keyed(bytes.fromhex(key), kind, checksum)}\n".encode()


def verify(data: bytes, job_id: str, kind: str, *, name: str, advice: str | None) -> None:
    """Return if a sealed pickle is whole and was written by this user.

    Args:
        data: the pickle with its seal.
        job_id: of its job.
        kind: what it should be.
        name: what to call it in a message.
        advice: what to do with one that somebody else wrote; None to accept it.

    Raises:
        StoreError: it is damaged.
        TrustError: it is of somebody else, or of a time before pickles were sealed.
    """
    sealed, checksum, found = _is_sealed(data), "", ""
    if sealed:
        checksum, _, found = data[len(_SEAL) - _SEAL_BYTES : -1].decode("latin-1").partition(" ")
        if hashlib.sha256(memoryview(data)[:-_SEAL_BYTES]).hexdigest() != checksum:
            raise StoreError(f"{name} of job {job_id!r} is damaged: its content does not match its checksum")
    if advice is not None and not (sealed and is_marked(found, job_id, kind, checksum)):
        raise TrustError(
            f"{name} of job {job_id!r} was not written by a job of yours (or on another machine, or by an older "
            "version). It is a pickle, which can run any code when it is loaded; if you trust its source, "
            f"{advice}"
        )


def without_seal(data: bytes) -> bytes:
    """Return a pickle without its seal."""
    return data[:-_SEAL_BYTES] if _is_sealed(data) else data


def _is_sealed(data: bytes) -> bool:
    return len(data) >= _SEAL_BYTES and data[-_SEAL_BYTES:].startswith(_SEAL)


def _keyed(key: bytes, *said: str) -> str:
    return hmac.new(key, json.dumps(said).encode(), hashlib.sha256).hexdigest()


def _user_key() -> bytes:
    """Return the key of this user; make it when it is needed for the first time."""
    problem: OSError | None = None
    for folder in _folders():
        if folder in _keys:
            return _keys[folder]
        try:
            key = _key_in(folder)
        except OSError as error:
            problem = problem or error
            continue
        _keys[folder] = key
        return key
    raise StoreError(
        f"there is no private folder for the key that shows which files are yours ({problem}); "
        f"set {STATE_VARIABLE} to a folder of your own"
    ) from problem


def _folders() -> Iterator[Path]:
    """Yield where the key may be; the last one for a user whose home cannot be written."""
    chosen = os.environ.get(STATE_VARIABLE, "")
    if os.path.isabs(chosen):  # the XDG specification has others ignored
        yield Path(chosen, "trainkit")
    else:
        with contextlib.suppress(RuntimeError):  # a user without a home
            yield Path.home() / ".local" / "state" / "trainkit"
    user = os.getuid() if hasattr(os, "getuid") else os.getlogin()
    yield Path(tempfile.gettempdir(), f"trainkit-{user}-key")


def _key_in(folder: Path) -> bytes:
    """Return the key in a folder.

    Raises:
        OSError: there cannot be one that is private.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "key"
    # Not through a link: anybody could have put one into the folder of temporary files.
    _check_private(os.lstat(folder), folder, stat.S_IFDIR, 0o022)
    for _ in range(2):
        try:
            fd = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        except FileNotFoundError:
            _make_key(path)
            continue
        with open(fd, "rb") as file:
            _check_private(os.fstat(fd), path, stat.S_IFREG, 0o077)
            key = file.read(_KEY_BYTES)
        if len(key) == _KEY_BYTES:
            return key
        break
    raise OSError(f"{path} is not a key")


def _make_key(path: Path) -> None:
    """Write a new key, unless another process has done so meanwhile: whole or not at all."""
    fd, temporary = tempfile.mkstemp(prefix=".key.", dir=path.parent)
    try:
        with open(fd, "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
            file.flush()
            os.fsync(fd)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
        except OSError:  # a file system without hard links
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _check_private(found: os.stat_result, path: Path, kind: int, forbidden: int) -> None:
    if stat.S_IFMT(found.st_mode) != kind:
        raise OSError(f"{path} is not what it should be")
    if hasattr(os, "getuid") and (found.st_uid != os.getuid() or found.st_mode & forbidden):
        raise OSError(f"{path} is not private to this user")
