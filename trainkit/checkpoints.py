"""Checkpoints and model files: written so that a kill leaves the old or the new, verified before use.

Beside ``resume.pt`` and the one before it lies ``resume.json`` with the size and sha256 of both; it is
written before the files take their places, so that whichever of them a kill leaves can be verified.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import random
import sys
import uuid
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import msgspec

from trainkit.errors import CheckpointError, ModelFileError
from trainkit.paths import JobPaths
from trainkit.record import CheckpointInfo
from trainkit.store import sync_folder, write_atomically

if TYPE_CHECKING:
    import torch

#: What marks a model file as ours.
MODEL_FORMAT = "trainkit-model"
MODEL_VERSION = 1


class _Hashing:
    """A file that hashes what passes through it.  ``torch.save`` only writes and never seeks."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self.size_bytes = 0

    def write(self, data: bytes) -> int:
        """Write and hash."""
        self._sha256.update(data)
        self.size_bytes += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        """Flush the file below."""
        self._file.flush()

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
    """
    temporary, size_bytes, sha256 = _write_temporary(path, content)
    os.replace(temporary, path)
    sync_folder(path.parent)
    return size_bytes, sha256


def _write_temporary(path: Path, content: Any) -> tuple[Path, int, str]:
    import torch

    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:
            hashing = _Hashing(file)
            torch.save(content, cast("BinaryIO", hashing))
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary, hashing.size_bytes, hashing.sha256


# --- resume.pt -----------------------------------------------------------------------------------


def save_resume(paths: JobPaths, content: Any, *, step: int, epoch: int, now: float) -> CheckpointInfo:
    """Write a new ``resume.pt`` and keep the one before it.

    Args:
        paths: the job's files.
        content: plain types and tensors.
        step: the global step it was taken after.
        epoch: the 1-based epoch it was taken in.
        now: Unix seconds.
    """
    temporary, size_bytes, sha256 = _write_temporary(paths.resume, content)
    info = CheckpointInfo(
        path=paths.resume.relative_to(paths.root).as_posix(),
        step=step,
        epoch=epoch,
        size_bytes=size_bytes,
        sha256=sha256,
        saved_at=now,
    )
    known = [info, *_generations(paths)][:3]
    write_atomically(_manifest(paths), msgspec.json.encode(known), durable=True)
    if paths.resume.exists():
        # A link, not a rename: at no instant is there no resume.pt.
        link = paths.folder / f".{uuid.uuid4().hex}.tmp"
        os.link(paths.resume, link)
        os.replace(link, paths.resume_previous)
    os.replace(temporary, paths.resume)
    sync_folder(paths.folder)
    return info


def load_resume(paths: JobPaths) -> tuple[dict[str, Any], CheckpointInfo]:
    """Read the newest checkpoint that is whole, the one before if need be.

    Raises:
        CheckpointError: there is none, or none passes its check.
    """
    generations = {info.sha256: info for info in _generations(paths)}
    faults = []
    for path in (paths.resume, paths.resume_previous):
        if not path.exists():
            faults.append(f"{path.name} is missing")
            continue
        with open(path, "rb") as file:
            found = _digest(file)
        if found in generations:
            import torch

            return torch.load(path, weights_only=True, map_location="cpu"), generations[found]
        faults.append(f"{path.name} does not match its sha256")
    raise CheckpointError(f"job {paths.job_id!r} has no checkpoint to go on from: {'; '.join(faults)}")


def _digest(file: BinaryIO) -> str:
    sha256 = hashlib.sha256()
    while block := file.read(1 << 20):
        sha256.update(block)
    return sha256.hexdigest()


def _manifest(paths: JobPaths) -> Path:
    return paths.folder / "resume.json"


def _generations(paths: JobPaths) -> list[CheckpointInfo]:
    try:
        return msgspec.json.decode(_manifest(paths).read_bytes(), type=list[CheckpointInfo])
    except FileNotFoundError:
        return []
    except msgspec.DecodeError as error:
        raise CheckpointError(f"{_manifest(paths)}: {error}") from error


# --- random state --------------------------------------------------------------------------------


def random_state() -> dict[str, Any]:
    """Return the state of the random generators of python, numpy and torch; quick, to be taken every epoch.

    Libraries that are not loaded have no state to keep.
    """
    state: dict[str, Any] = {"python": random.getstate()}
    if "numpy" in sys.modules:
        import numpy as np

        state["numpy"] = np.random.get_state(legacy=True)
    if "torch" in sys.modules:
        import torch

        state["torch"] = torch.get_rng_state()
        if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def plain_random_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a random state in plain types and tensors, as a checkpoint can hold it."""
    version, internal, gauss = state["python"]
    plain = {**state, "python": [version, list(internal), gauss]}
    if "numpy" in state:
        name, keys, position, has_gauss, cached = state["numpy"]
        plain["numpy"] = [str(name), [int(key) for key in keys], int(position), int(has_gauss), float(cached)]
    return plain


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Bring back a state of :func:`random_state` or :func:`plain_random_state`."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    if "numpy" in state:
        import numpy as np

        name, keys, position, has_gauss, cached = state["numpy"]
        np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    if "torch" in state:
        import torch

        torch.set_rng_state(state["torch"])
        if "cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda"])


def compute_state() -> dict[str, Any]:
    """Return what besides the random numbers decides about the last bits of a result."""
    if "torch" not in sys.modules:
        return {}
    import torch

    return {"threads": torch.get_num_threads(), "cpu": torch.backends.cpu.get_cpu_capability()}


def restore_compute(state: Mapping[str, Any]) -> list[str]:
    """Set the number of threads as it was; return what else differs, in words."""
    if not state:
        return []
    import torch

    torch.set_num_threads(state["threads"])
    now = torch.backends.cpu.get_cpu_capability()
    return [] if now == state["cpu"] else [f"the processor computes with {now}, it was {state['cpu']}"]


# --- models --------------------------------------------------------------------------------------


def exported(model: Any) -> dict[str, Any] | None:
    """Return what a model file should hold, or None if the object is no model.

    An object with ``__trainkit_export__()`` says so itself; a ``torch.nn.Module``, or a dict of tensors,
    is kept as a state dict.
    """
    if hasattr(model, "__trainkit_export__"):
        return cast("dict[str, Any]", model.__trainkit_export__())
    if "torch" not in sys.modules:
        return None
    import torch

    if isinstance(model, torch.nn.Module):
        kind, state = type(model).__qualname__, model.state_dict()
    elif isinstance(model, dict) and model and all(isinstance(value, torch.Tensor) for value in model.values()):
        kind, state = "dict", model
    else:
        return None
    return {
        "format": MODEL_FORMAT,
        "version": MODEL_VERSION,
        "kind": "state_dict",
        "class": kind,
        "state_dict": {name: _to_cpu(value) for name, value in state.items()},
    }


def load_model_content(path: Path) -> dict[str, Any]:
    """Read what :func:`exported` gave, without running anything that the file might hold.

    Raises:
        ModelFileError: not a model file of ours, or damaged.
    """
    import torch

    if not path.exists():
        raise ModelFileError(f"{path} does not exist")
    if not zipfile.is_zipfile(path):  # what torch.save has written since 1.6; all else need not be looked at
        raise ModelFileError(f"{path} is no model file, or is damaged: it is not a zip archive")
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise ModelFileError(f"{path} is no model file, or is damaged: {error}") from error
    if not isinstance(content, dict) or content.get("format") != MODEL_FORMAT:
        raise ModelFileError(f"{path} is not a model file of trainkit; load it with torch.load(weights_only=True)")
    return content


def _to_cpu(value: Any) -> Any:
    return cast("torch.Tensor", value).detach().cpu() if hasattr(value, "detach") else value
