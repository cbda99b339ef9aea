"""A look at the gradients of a model between two steps."""

from __future__ import annotations

from typing import Any


def gradient_norm(model: Any) -> float | None:
    """Return the norm of all gradients that a model holds at the moment; None if it holds none.

    It reads every gradient and waits for the device: for moments when the run is saved, which does so too.

    Args:
        model: anything with ``parameters()``.
    """
    import torch

    parameters = getattr(model, "parameters", None)
    gradients = [each.grad for each in parameters() if each.grad is not None] if callable(parameters) else []
    norms = [torch.linalg.vector_norm(each).cpu() for each in gradients if each.layout is torch.strided]
    return float(torch.linalg.vector_norm(torch.stack(norms))) if norms else None
