"""Checkpoints: written so that a kill leaves the old or the new, verified before use.

Beside ``resume.pt`` and the one before it lies ``resume.json`` with the size and sha256 of both; it is
written before the files take their places, so that whichever of them a kill leaves can be verified.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec

from trainkit.errors import CheckpointError, ModelFileError, RecordError, StoreError, telling
from trainkit.files.opening import opened
from trainkit.files.paths import JobPaths
from trainkit.files.record import MOST_RECORD_BYTES, CheckpointInfo, decode
from trainkit.files.safeload import load
from trainkit.files.whole import copy_file, read_whole, remove_temporary, sync, sync_folder, write_atomically

#: How many hashes are kept when it is not known which of them belong to a file.
_MOST_KNOWN = 100


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


def save_model(paths: JobPaths, content: Any) -> Path:
    """Write a job's model file, and return where it is.

    It is in ``models/``, which is made again if it was removed, or in the job's folder if that cannot be written.

    Args:
        paths: the job's files.
        content: what :func:`trainkit.files.modelfile.exported` returned.

    Raises:
        StoreError: neither can be written.
    """
    try:
        with telling(paths.model.parent):
            paths.model.parent.mkdir(parents=True, exist_ok=True)
        save(paths.model, content)
    except StoreError as error:
        try:
            save(paths.own_model, content)
        except StoreError:
            raise error from None
        remove_temporary(paths.model)  # an older model
        return paths.own_model
    remove_temporary(paths.own_model)
    return paths.model


def _write_temporary(path: Path, content: Any) -> tuple[Path, int, str]:
    import torch

    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    hashing: _Hashing | None = None
    try:
        with opened(temporary, "xb") as file:
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


def sync_for_resume(paths: JobPaths) -> None:
    """Return when all that a resume needs with a checkpoint is on the disk.

    When a job is submitted nothing waits for the disk.  But a checkpoint without its task is of no use after a
    loss of power.

    Raises:
        StoreError: the disk does not say so.
    """
    with telling(paths.folder):
        for path in (paths.task, paths.handle, paths.plan, _manifest(paths), paths.folder):
            sync(path)
        # The folder of the records is synced with each change of state.
        jobs = paths.record.parent
        for folder in (jobs.parent, paths.root):
            sync(folder)


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
        _write_manifest(paths, [_generation(info, temporary), *_earlier(paths)], durable=True)
        if paths.resume.exists():
            link(paths.resume, paths.resume_previous)  # not a rename: at no instant is there no resume.pt
    except BaseException:
        remove_temporary(temporary)
        raise
    _put_in_place(temporary, paths.resume)
    return info


class Generation(CheckpointInfo, frozen=True):
    """A checkpoint in ``resume.json``, with what its file keeps when it is renamed, or linked to."""

    inode: int = 0
    mtime_ns: int = 0


def _generation(info: CheckpointInfo, file: Path) -> Generation:
    found = file.stat()
    return Generation(**msgspec.structs.asdict(info), inode=found.st_ino, mtime_ns=found.st_mtime_ns)


def _write_manifest(paths: JobPaths, known: list[Generation], *, durable: bool) -> None:
    write_atomically(_manifest(paths), msgspec.json.encode(known), durable=durable)


def _earlier(paths: JobPaths) -> list[Generation]:
    """What is known of the checkpoints that lie there; one that cannot be verified any more is not counted on.

    What a kill kept from its place is dropped only when each file that lies there is known: kill after kill
    within a save must not push the hashes of those out of the list.
    """
    try:
        known = generations(paths)
    except CheckpointError:
        return []
    files = [path.stat() for path in (paths.resume, paths.resume_previous) if path.exists()]
    present = {(file.st_ino, file.st_mtime_ns) for file in files}
    placed = [each for each in known if (each.inode, each.mtime_ns) in present]
    return placed if len(placed) >= len(present) else known[:_MOST_KNOWN]


def generation_of(paths: JobPaths, path: Path) -> CheckpointInfo | None:
    """Return what is known of ``resume.pt`` or of the one before it; None if nothing is, or it is not there.

    Raises:
        CheckpointError: the list of them is damaged.
    """
    if not path.exists():
        return None
    file = path.stat()
    found = next(
        (each for each in generations(paths) if (each.inode, each.mtime_ns) == (file.st_ino, file.st_mtime_ns)),
        None,
    )
    if found is None:  # a copy, or the list of an older version
        found = next((each for each in generations(paths) if is_whole(path, each)), None)
    if found is None:
        return None
    fields = {name: getattr(found, name) for name in CheckpointInfo.__struct_fields__}
    return CheckpointInfo(**{**fields, "path": path.relative_to(paths.root).as_posix()})


def adopt(paths: JobPaths, source: Path, info: CheckpointInfo) -> CheckpointInfo:
    """Make a checkpoint of another job the first one of a job that has none.

    Args:
        paths: the new job's files.
        source: the other's file.
        info: what is known of it.
    """
    here = msgspec.structs.replace(info, path=paths.resume.relative_to(paths.root).as_posix())
    link(source, paths.resume)
    _write_manifest(paths, [_generation(here, paths.resume)], durable=False)
    return here


def link(source: Path, target: Path) -> None:
    """Have a file under a second name, whole at any instant; a copy where the file system has no links."""
    temporary = target.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        try:
            os.link(source, temporary)
        except OSError:
            copy_file(source, temporary)
        os.replace(temporary, target)
    finally:
        remove_temporary(temporary)  # POSIX leaves it, too, where both are names of one file already


def take_up(paths: JobPaths) -> dict[str, Any]:
    """Read the newest checkpoint that is whole, for the owner who goes on from it.

    If the newest is damaged, the one before takes its place: the next save moves what is in the first place to
    the second, where a damaged file would replace a whole one.

    Raises:
        CheckpointError: there is none, or none passes its check.
    """
    content, info = load_resume(paths)
    if not is_whole(paths.resume, info):
        link(paths.resume_previous, paths.resume)
    return content


def load_resume(paths: JobPaths) -> tuple[dict[str, Any], CheckpointInfo]:
    """Read the newest checkpoint that is whole, the one before if need be.

    Raises:
        CheckpointError: there is none, or none passes its check.
    """
    path, known = whole_resume(paths)
    info = CheckpointInfo(**{name: getattr(known, name) for name in CheckpointInfo.__struct_fields__})
    try:
        return load(path, verified=True), info
    except ModelFileError as error:
        raise CheckpointError(
            f"{path.name} of job {paths.job_id!r} cannot be loaded safely ({error}); let what is tracked keep its "
            "state in numbers, texts, lists, dicts and tensors"
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
            with opened(path, "rb") as file:
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
        with opened(path, "rb") as file:
            return _digest(file) == info.sha256
    except OSError:
        return False


def generations(paths: JobPaths) -> list[Generation]:
    """Return what ``resume.json`` and the record know of the newest checkpoints, newest first.

    Raises:
        CheckpointError: ``resume.json`` is damaged, and the record has no checksum either.
    """
    recorded = _recorded(paths)
    try:
        listed = _listed(paths)
    except CheckpointError:
        if recorded is None:
            raise
        return [recorded]
    if recorded is None or any(each.sha256 == recorded.sha256 for each in listed):
        return listed
    return [*listed, recorded]


def _recorded(paths: JobPaths) -> Generation | None:
    """Return the newest checkpoint as the record has it: where ``resume.json`` is damaged, its checksum counts."""
    try:
        info = decode(read_whole(paths.record, most_bytes=MOST_RECORD_BYTES)).checkpoint
    except (OSError, RecordError):
        return None
    if info is None or info.sha256 is None:
        return None
    return Generation(**msgspec.structs.asdict(info))


def _listed(paths: JobPaths) -> list[Generation]:
    path = _manifest(paths)
    try:
        return msgspec.json.decode(read_whole(path), type=list[Generation])
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path}: {error}") from error
