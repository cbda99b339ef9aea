"""Forwards and backwards through a :class:`~trainkit.tabular.network.TableNet` in training, by hand.

What autograd would do, written out into memory that is taken once for a size of batch: for networks as small
as these, the graph, its memory and the calls between cost more than the computing.  ``TableNet.forward`` says the
same in the usual words; a test holds the two together.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainkit.tabular.adam import FlatAdamW
from trainkit.tabular.feeding import Batch
from trainkit.tabular.network import CLIP, TableNet, draw_mask, kept_scale


class Backpropagation:
    """Fills in the gradients of the loss of a batch.

    Args:
        network: on its device, with weights; its gradients are parts of the optimizer's.
        optimizer: of the network's parameters.
        classes: whether the loss is the cross entropy; else the squared error.  Either is the mean over members
            and rows: each member has a loss of its own.
    """

    def __init__(self, network: TableNet, optimizer: FlatAdamW, *, classes: bool) -> None:
        self._network, self._optimizer, self._classes = network, optimizer, classes
        self._sizes: dict[int, _Pass] = {}  # two of them: the last batch of an epoch is smaller
        self._last: _Pass | None = None

    def __call__(self, batch: Batch) -> None:
        """Fill in the gradients; ``optimizer.step`` is what comes next.

        Args:
            batch: numbers, float32 with NaN for missing, (rows, numeric features); categories, int64,
                (rows, categories); targets, class indices or scaled numbers, (rows,).
        """
        numbers, categories, targets = batch
        one = self._last = self._sizes.get(len(targets)) or self._new_size(len(targets))
        one.embed(numbers, categories)
        one.forward()
        one.differ(targets)
        one.backward()

    def loss(self) -> Tensor:
        """Return the loss of the last batch, without waiting for it."""
        if self._last is None:
            raise RuntimeError("no batch was looked at yet")
        return self._last.loss()

    def _new_size(self, rows: int) -> _Pass:
        self._sizes[rows] = made = _Pass(self._network, self._optimizer, rows, self._classes)
        return made


class _Pass:
    """Forwards and backwards through the network with batches of one size.

    ``d_`` is the derivative of the loss by what follows.  Of a hidden layer, ``units`` are what it gives except
    for the factor ``scale`` of dropout, which the products of matrices take along.

    BLAS takes a fifth of the time for a matrix of few rows that it takes for one of few columns: so outputs are
    (members, outputs, rows) here, and the last weights are kept lying as well.  For a number of columns that is no
    multiple of eight it takes twice the time, so those of the words are filled up.
    """

    def __init__(self, network: TableNet, optimizer: FlatAdamW, rows: int, classes: bool) -> None:
        self.network, self.classes = network, classes
        self.members, _, self.width = network.signs.shape
        new = network.signs.new_empty
        # Views that autograd does not watch, and that change with the parameters.
        self.signs, self.last_weight, self.last_bias = (
            each.detach() for each in (network.signs, network.last_weight, network.last_bias)
        )
        self.weights = [weight.detach() for weight in network.weights]
        self.biases = [bias.detach() for bias in network.biases]
        self.d_signs, self.d_last_weight, self.d_last_bias = map(
            _gradient, (network.signs, network.last_weight, network.last_bias)
        )
        self.d_weights = [_gradient(weight) for weight in network.weights]
        self.d_biases = [_gradient(bias) for bias in network.biases]
        self.transposed = [weight.t() for weight in self.weights]
        self.scale = kept_scale(network.dropout)

        features, bins = network.left.shape
        self.missing = new(rows, features, dtype=torch.bool)
        self.values = new(rows, features)
        self.x = new(rows, self.width)
        self.x_values = self.x[:, :features]
        self.x_missing = self.x[:, features : 2 * features]
        self.x_bins = self.x[:, 2 * features : features * (bins + 2)].view(rows, features, bins)
        self.signed = new(self.members, rows, self.width)
        self.flat_signed, self.x_transposed = self.signed.flatten(0, 1), self.x.t()

        self.units = [new(self.members, rows, weight.shape[1]) for weight in self.weights]
        self.d_units = [torch.empty_like(units) for units in self.units]
        self.flat_units = [units.flatten(0, 1) for units in self.units]
        self.flat_d_units = [units.flatten(0, 1) for units in self.d_units]
        self.mask = new(max(units.numel() for units in self.units))
        self.masks = [self.mask[: units.numel()].view_as(units) for units in self.units]
        self.outputs = new(self.members, network.last_bias.shape[2], rows)
        self.log_shares = torch.empty_like(self.outputs)
        self.d_outputs = torch.empty_like(self.outputs)
        self.minus_one = -torch.ones_like(self.outputs[:, :1])
        self.lying_weight = self.last_weight.mT.contiguous()
        self.d_lying_weight = torch.empty_like(self.lying_weight)
        self.d_products = new(self.members, *self.weights[0].shape)
        self.product = torch.empty_like(self.d_products)
        self.targets: Tensor = self.outputs
        self._words(network, optimizer, rows)

    def _words(self, network: TableNet, optimizer: FlatAdamW, rows: int) -> None:
        """Where in the vector of all parameters each number of the embeddings is that a row takes."""
        sizes = [table.shape[1] for table in network.embeddings]
        self.words = sum(sizes)
        if not self.words:
            return
        new, device = network.signs.new_empty, network.signs.device
        self.vector, self.gradient = optimizer.vector, optimizer.gradient
        self.columns = torch.tensor([i for i, size in enumerate(sizes) for _ in range(size)], device=device)
        self.strides = torch.tensor([size for size in sizes for _ in range(size)], device=device)
        self.begins = torch.cat(
            [
                torch.arange(size, device=device) + table.storage_offset() - self.vector.storage_offset()
                for size, table in zip(sizes, network.embeddings, strict=True)
            ]
        )
        self.d_tables = [_gradient(table) for table in network.embeddings]
        self.where = new(rows, self.words, dtype=torch.int64)
        self.word_values = new(rows * self.words)
        self.x_words = self.x[:, self.width - self.words :]
        filled = -(-self.words // 8) * 8
        self.word_weights = self.weights[0].new_zeros(filled, self.weights[0].shape[1])
        self.d_filled_words = new(self.members, rows, filled)
        self.flat_d_filled_words = self.d_filled_words.flatten(0, 1)
        self.d_signed_words = self.d_filled_words[..., : self.words]
        self.d_words = new(rows, self.words)

    def embed(self, numbers: Tensor, categories: Tensor) -> None:
        """Turn the rows into the vectors that the layers see, as :meth:`TableNet.embed`."""
        network = self.network
        if numbers.shape[1]:
            torch.ne(numbers, numbers, out=self.missing)
            torch.where(self.missing, network.fill, numbers, out=self.values)
            torch.clamp(self.values, -CLIP, CLIP, out=self.x_values)
            self.x_missing.copy_(self.missing)
            torch.sub(self.values.unsqueeze(2), network.left, out=self.x_bins)
            self.x_bins.mul_(network.inverse_width).clamp_(0, 1)
        if self.words:
            torch.index_select(categories, 1, self.columns, out=self.where)
            self.where.mul_(self.strides).add_(self.begins)
            torch.index_select(self.vector, 0, self.where.view(-1), out=self.word_values)
            self.x_words.copy_(self.word_values.view_as(self.x_words))

    def forward(self) -> None:
        """Compute the outputs, as :meth:`TableNet.forward` in training."""
        network = self.network
        torch.mul(self.x, self.signs, out=self.signed)
        flat, scale = self.flat_signed, 1.0
        for layer, units in enumerate(self.units):
            _product(flat, self.weights[layer], scale, self.flat_units[layer])
            units.add_(self.biases[layer]).relu_()
            if network.dropout > 0:
                units.mul_(draw_mask(self.masks[layer], network.dropout, network.dropout_rng))
            flat, scale = self.flat_units[layer], self.scale
        self.lying_weight.copy_(self.last_weight.mT)
        torch.baddbmm(self.last_bias.mT, self.lying_weight, self.units[-1].mT, alpha=scale, out=self.outputs)

    def differ(self, targets: Tensor) -> None:
        """Compare the outputs with the targets."""
        self.targets = targets.view(1, 1, -1).expand(self.members, -1, -1)
        pairs = self.members * len(targets)
        if self.classes:
            torch.log_softmax(self.outputs, 1, out=self.log_shares)
            torch.exp(self.log_shares, out=self.d_outputs)
            self.d_outputs.scatter_add_(1, self.targets, self.minus_one).mul_(1 / pairs)
        else:
            torch.sub(self.outputs, self.targets, out=self.d_outputs).mul_(2 / pairs)

    def loss(self) -> Tensor:
        """Return the loss."""
        if self.classes:
            return self.log_shares.gather(1, self.targets).mean().neg()
        return (self.outputs - self.targets).square().mean()

    def backward(self) -> None:
        """Fill in the gradients of all parameters."""
        units = self.units
        torch.sum(self.d_outputs, 2, out=self.d_last_bias[:, 0])
        _products(self.d_outputs, units[-1], self.scale, self.d_lying_weight)
        self.d_last_weight.copy_(self.d_lying_weight.mT)
        _products(self.d_outputs.mT, self.lying_weight, self.scale, self.d_units[-1])
        for layer in reversed(range(len(units))):
            d_units = self.d_units[layer]
            # What is zero was cut off by the rectifier or left out by dropout: nothing passes there.
            torch.ops.aten.threshold_backward.grad_input(d_units, units[layer], 0, grad_input=d_units)
            torch.sum(d_units, 1, keepdim=True, out=self.d_biases[layer])
            if layer:
                flat = self.flat_d_units[layer]
                _product(self.flat_units[layer - 1].t(), flat, self.scale, self.d_weights[layer])
                _product(flat, self.transposed[layer], self.scale, self.flat_d_units[layer - 1])
        # The first layer sees signs * x.  The products of x give the gradients both of weights and of signs, which
        # saves a product as large for that of x, of which only the words have parameters.
        torch.matmul(self.x_transposed, self.d_units[0], out=self.d_products)
        torch.mul(self.d_products, self.signs.mT, out=self.product)
        torch.sum(self.product, 0, out=self.d_weights[0])
        torch.mul(self.d_products, self.weights[0], out=self.product)
        torch.sum(self.product, 2, out=self.d_signs[:, 0])
        if self.words:
            self._backward_words()

    def _backward_words(self) -> None:
        self.word_weights[: self.words].copy_(self.weights[0][-self.words :])
        torch.mm(self.flat_d_units[0], self.word_weights.t(), out=self.flat_d_filled_words)
        signs = self.signs[..., -self.words :]
        torch.sum(self.d_signed_words.mul_(signs), 0, out=self.d_words)
        for table in self.d_tables:
            table.zero_()
        self.gradient.index_add_(0, self.where.view(-1), self.d_words.view(-1))


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        raise RuntimeError("the optimizer is not of this network's parameters")
    return parameter.grad


def _product(left: Tensor, right: Tensor, factor: float, out: Tensor) -> None:
    torch.addmm(out, left, right, beta=0, alpha=factor, out=out)


def _products(left: Tensor, right: Tensor, factor: float, out: Tensor) -> None:
    torch.baddbmm(out, left, right, beta=0, alpha=factor, out=out)
