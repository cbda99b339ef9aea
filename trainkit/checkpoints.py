"""Checkpoints: written so that a kill leaves the old or the new, verified before use.

Beside ``resume.pt`` and the one before it lies ``resume.json`` with the size and sha256 of both; it is
written before the files take their places, so that whichever of them a kill leaves can be verified.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec

from trainkit.errors import CheckpointError, telling
from trainkit.paths import JobPaths
from trainkit.record import CheckpointInfo
from trainkit.store import remove_temporary, sync_folder, write_atomically


class _Hashing:
    """A file that hashes what passes through it.  ``torch.save`` only writes and never seeks."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self.size_bytes = 0
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        """Write and hash."""
        self._sha256.update(data)
        self.size_bytes += len(data)
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Flush the file below."""
        try:
            self._file.flush()
        except OSError as error:
            self.error = error
            raise

    @property
    def sha256(self) -> str:
        """The hash of all that was written."""
        return self._sha256.hexdigest()


def save(path: Path, content: Any) -> tuple[int, str]:
    """Write a file with ``torch.save``, whole or not at all.

    Args:
        path: the file, replaced if it is there.
        content: plain types and tensors, so that ``torch.load(weights_only=True)`` reads it.

    Returns:
        The size in bytes and the sha256 of the file.

    Raises:
        StoreError: it could not be written.
    """
    with telling(path):
        temporary, size_bytes, sha256 = _write_temporary(path, content)
        _put_in_place(temporary, path)
    return size_bytes, sha256


def _write_temporary(path: Path, content: Any) -> tuple[Path, int, str]:
    import torch

    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    hashing: _Hashing | None = None
    try:
        with open(temporary, "xb") as file:
            hashing = _Hashing(file)
            torch.save(content, cast("BinaryIO", hashing))
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        remove_temporary(temporary)
        if hashing is not None and hashing.error is not None and not isinstance(error, OSError):
            raise hashing.error from error  # torch tells of a full disk in words of its own
        raise
    return temporary, hashing.size_bytes, hashing.sha256


def _put_in_place(temporary: Path, path: Path) -> None:
    try:
        os.replace(temporary, path)
    except BaseException:
        remove_temporary(temporary)
        raise
    sync_folder(path.parent)


# --- resume.pt -----------------------------------------------------------------------------------


def plain(state: Any) -> Any:
    """Return a state with numbers of numpy's as numbers of Python's, at any depth.

    ``torch.load(weights_only=True)`` refuses the former, so what was saved with them could never be read.
    """
    if isinstance(state, Mapping):
        changed = {key: plain(value) for key, value in state.items()}
        # The same object wherever nothing had to change: a module's state dict carries versions besides.
        return state if all(changed[key] is value for key, value in state.items()) else changed
    if type(state) in (list, tuple):
        items = [plain(value) for value in state]
        return state if all(new is old for new, old in zip(items, state, strict=True)) else type(state)(items)
    if type(state).__module__ == "numpy" and getattr(state, "shape", None) == () and hasattr(state, "item"):
        return state.item()
    return state


def save_resume(
    paths: JobPaths, content: Any, *, step: int, epoch: int, now: float, reason: str | None = None
) -> CheckpointInfo:
    """Write a new ``resume.pt`` and keep the one before it.

    Args:
        paths: the job's files.
        content: plain types and tensors.
        step: the global step it was taken after.
        epoch: the 1-based epoch it was taken in.
        now: Unix seconds.
        reason: why it was taken, if it is to be kept longer than others.

    Raises:
        StoreError: it could not be written; the checkpoints that were there are there still.
    """
    with telling(paths.resume):
        return _save_resume(paths, content, step=step, epoch=epoch, now=now, reason=reason)


def _save_resume(
    paths: JobPaths, content: Any, *, step: int, epoch: int, now: float, reason: str | None
) -> CheckpointInfo:
    temporary, size_bytes, sha256 = _write_temporary(paths.resume, content)
    info = CheckpointInfo(
        path=paths.resume.relative_to(paths.root).as_posix(),
        step=step,
        epoch=epoch,
        size_bytes=size_bytes,
        sha256=sha256,
        saved_at=now,
        reason=reason,
    )
    try:
        write_atomically(_manifest(paths), msgspec.json.encode([info, *_earlier(paths)][:3]), durable=True)
        if paths.resume.exists():
            link(paths.resume, paths.resume_previous)  # not a rename: at no instant is there no resume.pt
    except BaseException:
        remove_temporary(temporary)
        raise
    _put_in_place(temporary, paths.resume)
    return info


def _earlier(paths: JobPaths) -> list[CheckpointInfo]:
    """What is known of the checkpoints that lie there; one that cannot be verified any more is not counted on."""
    try:
        return generations(paths)
    except CheckpointError:
        return []


def adopt(paths: JobPaths, source: Path, info: CheckpointInfo) -> CheckpointInfo:
    """Make a checkpoint of another job the first one of a job that has none.

    Args:
        paths: the new job's files.
        source: the other's file.
        info: what is known of it.
    """
    here = msgspec.structs.replace(info, path=paths.resume.relative_to(paths.root).as_posix())
    write_atomically(_manifest(paths), msgspec.json.encode([here]), durable=False)
    link(source, paths.resume)
    return here


def link(source: Path, target: Path) -> None:
    """Have a file under a second name, whole at any instant; a copy where the file system has no links."""
    temporary = target.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
        os.replace(temporary, target)
    finally:
        remove_temporary(temporary)  # POSIX leaves it, too, where both are names of one file already


def load_resume(paths: JobPaths) -> tuple[dict[str, Any], CheckpointInfo]:
    """Read the newest checkpoint that is whole, the one before if need be.

    Raises:
        CheckpointError: there is none, or none passes its check.
    """
    path, info = whole_resume(paths)
    import torch

    try:
        return torch.load(path, weights_only=True, map_location="cpu"), info
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path.name} of job {paths.job_id!r} holds objects that cannot be loaded safely; let what is tracked "
            "keep its state in numbers, texts, lists, dicts and tensors"
        ) from error


def whole_resume(paths: JobPaths) -> tuple[Path, CheckpointInfo]:
    """Return where the newest checkpoint is that is whole; reads its bytes, and needs no torch.

    Raises:
        CheckpointError: there is none, or none passes its check.
    """
    known = {info.sha256: info for info in generations(paths)}
    faults = []
    for path in (paths.resume, paths.resume_previous):
        try:
            if not path.exists():
                faults.append(f"{path.name} is missing")
                continue
            if not path.is_file():  # opening a pipe would wait for ever
                faults.append(f"{path.name} is no file")
                continue
            with open(path, "rb") as file:
                found = _digest(file)
        except OSError as error:
            faults.append(f"{path.name}: {error.strerror or error}")
            continue
        if found in known:
            return path, known[found]
        faults.append(f"{path.name} does not match its sha256")
    raise CheckpointError(f"job {paths.job_id!r} has no checkpoint to go on from: {'; '.join(faults)}")


def _digest(file: BinaryIO) -> str:
    sha256 = hashlib.sha256()
    while block := file.read(1 << 20):
        sha256.update(block)
    return sha256.hexdigest()


def _manifest(paths: JobPaths) -> Path:
    return paths.folder / "resume.json"


def is_whole(path: Path, info: CheckpointInfo) -> bool:
    """Whether a file is there and is the checkpoint that it should be."""
    try:
        with open(path, "rb") as file:
            return _digest(file) == info.sha256
    except OSError:
        return False


def generations(paths: JobPaths) -> list[CheckpointInfo]:
    """Return what ``resume.json`` tells of the newest checkpoints, newest first.

    Raises:
        CheckpointError: it is damaged.
    """
    path = _manifest(paths)
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[CheckpointInfo]) if path.exists() else []
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path}: {error}") from error
