"""The network: one multi-layer perceptron that acts as several.

Sources: shared weights with a sign vector and biases per member, each member trained on its own loss and
the predictions averaged: TabM, Gorishniy et al., ICLR 2025 (arXiv:2410.24210).  Numbers enter standardised
and as positions between quantiles (piecewise-linear encoding): Gorishniy et al., NeurIPS 2022
(arXiv:2203.05556).
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from trainkit.tabular.features import FIRST_WORD, Features

CLIP = 4.0  # standard deviations; beyond, only the quantile bins tell values apart
EMBEDDING = 8


class TableNet(nn.Module):
    """Predict from numbers and categories.

    Args:
        features: how the table is read; gives the bins and the sizes of the embeddings.
        hidden: widths of the hidden layers.
        outputs: 1 for regression, else the number of classes.
        members: how many perceptrons it stands for.
        dropout: share of hidden units left out in training, which is rounded to 256ths.

    The weights are empty until :meth:`reset` or ``load_state_dict``.
    """

    left: Tensor
    inverse_width: Tensor
    fill: Tensor

    def __init__(self, features: Features, hidden: list[int], outputs: int, members: int, dropout: float) -> None:
        super().__init__()
        numbers = features.numbers
        bins = max((len(number.edges) - 1 for number in numbers), default=1)
        self.register_buffer("left", torch.zeros(len(numbers), bins, dtype=torch.float32))
        self.register_buffer("inverse_width", torch.zeros(len(numbers), bins, dtype=torch.float32))
        self.register_buffer("fill", torch.zeros(len(numbers), dtype=torch.float32))
        sizes = [len(category.words) + FIRST_WORD for category in features.categories]
        self.embeddings = nn.ParameterList(_empty(size, min(EMBEDDING, size)) for size in sizes)
        width = len(numbers) * (bins + 2) + sum(table.shape[1] for table in self.embeddings)
        self.signs = _empty(members, 1, width)
        widths = [width, *hidden]
        self.weights = nn.ParameterList(_empty(i, o) for i, o in itertools.pairwise(widths))
        self.biases = nn.ParameterList(_empty(members, 1, o) for o in hidden)
        self.last_weight = _empty(members, hidden[-1], outputs)
        self.last_bias = _empty(members, 1, outputs)
        self.dropout = dropout
        self.dropout_rng: torch.Generator | None = None

    @torch.no_grad()
    def reset(self, features: Features, generator: torch.Generator) -> None:
        """Fill in the bins, and draw the weights.

        Args:
            features: as at the making.
            generator: on the CPU; the global random state is not used.
        """
        for row, number in enumerate(features.numbers):
            edges = torch.tensor(number.edges, dtype=torch.float32)
            count = len(edges) - 1
            self.left[row, :count] = edges[:-1]
            self.inverse_width[row, :count] = 1 / (edges[1:] - edges[:-1])
            self.fill[row] = number.fill
        for table in self.embeddings:
            table.normal_(generator=generator)
        self.signs.bernoulli_(0.5, generator=generator).mul_(2).sub_(1)
        for weight, bias in zip(self.weights, self.biases, strict=True):
            reach = math.sqrt(2 / weight.shape[0])
            weight.uniform_(-reach, reach, generator=generator)
            bias.uniform_(-1 / math.sqrt(weight.shape[0]), 1 / math.sqrt(weight.shape[0]), generator=generator)
        reach = 1 / math.sqrt(self.last_weight.shape[1])
        self.last_weight.uniform_(-reach, reach, generator=generator)
        self.last_bias.zero_()

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        """Predict.

        Args:
            numbers: float32, (rows, numeric features), NaN where missing.
            categories: int64, (rows, categories).

        Returns:
            float32, (members, rows, outputs).
        """
        x = self.embed(numbers, categories) * self.signs
        for weight, bias in zip(self.weights, self.biases, strict=True):
            x = torch.matmul(x, weight).add_(bias).relu_()
            if self.training and self.dropout > 0:
                x = x * draw_mask(torch.empty_like(x), self.dropout, self.dropout_rng) * kept_scale(self.dropout)
        # Lying, the few columns of these weights take BLAS a quarter of the time.
        return torch.baddbmm(self.last_bias, x, self.last_weight.mT.contiguous().mT)

    def embed(self, numbers: Tensor, categories: Tensor) -> Tensor:
        """Turn a row into the vector that the layers see, (rows, width)."""
        missing = torch.isnan(numbers)
        values = torch.where(missing, self.fill, numbers)
        bins = ((values.unsqueeze(2) - self.left) * self.inverse_width).clamp_(0, 1)
        parts = [values.clamp(-CLIP, CLIP), missing.to(values.dtype), bins.flatten(1)]
        parts += [nn.functional.embedding(categories[:, i], table) for i, table in enumerate(self.embeddings)]
        return torch.cat(parts, 1)


def draw_mask(mask: Tensor, dropout: float, generator: torch.Generator | None) -> Tensor:
    """Fill a float32 mask with 0 for a share of ``dropout``, and with 1 elsewhere.

    A byte of random bits for each place: ``bernoulli_`` takes sixteen times as long, and a third of a small step.
    """
    count = mask.numel()
    if mask.device.type == "cpu":
        draws = torch.empty(-(-count // 8), dtype=torch.int64).random_(-(2**63), None, generator=generator)
        octets = draws.view(torch.uint8)[:count]
    else:
        octets = torch.empty(count, dtype=torch.uint8, device=mask.device).random_(generator=generator)
    torch.ge(octets.view(mask.shape), _left_out(dropout), out=mask)
    return mask


def kept_scale(dropout: float) -> float:
    """What the units that are kept are multiplied by, so that their sum stays the same."""
    return 256 / (256 - _left_out(dropout)) if dropout > 0 else 1.0


def _left_out(dropout: float) -> int:
    return min(max(1, round(256 * dropout)), 255)


def _empty(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(*shape, dtype=torch.float32))
