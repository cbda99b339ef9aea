"""How good predictions are: accuracy, macro F1 and AUROC for classes; RMSE, MAE and R² for numbers.

Forty lines instead of a library: torchmetrics takes 2 s to import, which is as long as a small table
trains, and scikit-learn with scipy 160 MB; the tests compare with scikit-learn.
"""

from __future__ import annotations

import torch
from torch import Tensor


def classification_metrics(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Return accuracy, f1_macro and auroc.

    Args:
        probabilities: (rows, classes).
        labels: int64 class indices, (rows,).

    Returns:
        ``f1_macro`` averages over the classes that occur or are predicted; ``auroc`` over those that occur
        and do not fill all rows, each against the rest, and is NaN where there is none.

    >>> classification_metrics(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([0, 1]))
    {'accuracy': 1.0, 'f1_macro': 1.0, 'auroc': 1.0}
    """
    count = probabilities.shape[1]
    predicted = probabilities.argmax(1)
    right = torch.bincount(labels[predicted == labels], minlength=count)
    there, said = torch.bincount(labels, minlength=count), torch.bincount(predicted, minlength=count)
    seen = (there + said) > 0
    f1 = 2 * right[seen].double() / (there + said)[seen]
    areas = [
        _auroc(probabilities[:, label], labels == label)
        for label in ([1] if count == 2 else range(count))
        if 0 < int(there[label]) < len(labels)
    ]
    return {
        "accuracy": float((predicted == labels).double().mean()),
        "f1_macro": float(f1.mean()),
        "auroc": sum(areas) / len(areas) if areas else float("nan"),
    }


def regression_metrics(predicted: Tensor, actual: Tensor) -> dict[str, float]:
    """Return rmse, mae and r2, in the target's units.

    Args:
        predicted: (rows,).
        actual: (rows,).

    >>> regression_metrics(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
    {'rmse': 1.4142135623730951, 'mae': 1.0, 'r2': 0.11111111111111116}
    """
    error = predicted.double() - actual.double()
    spread = ((actual.double() - actual.double().mean()) ** 2).sum()
    return {
        "rmse": float((error**2).mean().sqrt()),
        "mae": float(error.abs().mean()),
        "r2": float(1 - (error**2).sum() / spread) if spread > 0 else float("nan"),
    }


def _auroc(scores: Tensor, positive: Tensor) -> float:
    """Mann and Whitney's U over all pairs, ties counted half (Hanley and McNeil, Radiology 1982)."""
    _, group, sizes = torch.unique(scores, return_inverse=True, return_counts=True)
    ranks = (sizes.cumsum(0) - (sizes - 1) / 2).double()[group]
    ones = int(positive.sum())
    wins = ranks[positive].sum() - ones * (ones + 1) / 2
    return float(wins / (ones * (len(scores) - ones)))
