"""The model file: what goes into it, and how it is read without running anything it might hold."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from trainkit.errors import ModelFileError
from trainkit.files.paths import JobPaths
from trainkit.files.safeload import load

if TYPE_CHECKING:
    import torch

#: What marks a model file as ours.
MODEL_FORMAT = "trainkit-model"
MODEL_VERSION = 1


def exported(model: Any) -> dict[str, Any] | None:
    """Return what a model file should hold, or None if the object is no model.

    An object with ``__trainkit_export__()`` says so itself; a ``torch.nn.Module``, or a dict of tensors,
    is kept as a state dict.
    """
    if model is None:
        return None
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


def model_file(paths: JobPaths) -> Path | None:
    """Return the file of a job's model, if the job has saved one."""
    # Saving a model to the usual place removes the other file, so that one is the newer one.
    return next((path for path in (paths.own_model, paths.model) if path.is_file()), None)


def load_model_content(path: Path) -> dict[str, Any]:
    """Read what :func:`exported` gave, without running anything that the file might hold.

    Raises:
        ModelFileError: not a model file of ours, or damaged.
    """
    content = load(path)
    if not isinstance(content, dict) or content.get("format") != MODEL_FORMAT:
        raise ModelFileError(f"{path} is not a model file of trainkit; load it with torch.load(weights_only=True)")
    return content


def _to_cpu(value: Any) -> Any:
    return cast("torch.Tensor", value).detach().cpu() if hasattr(value, "detach") else value
