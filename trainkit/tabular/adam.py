"""AdamW over all parameters at once: they lie one behind the other in one vector, and so do their gradients.

Source of the rule: Loshchilov and Hutter 2019 (arXiv:1711.05101), as :class:`torch.optim.AdamW` has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

ALIGNED = 16  # float32 numbers in a line of the cache: each parameter begins with one


class FlatAdamW:
    """One call for all parameters, where ``torch.optim.AdamW`` loops over them.

    Its first step imports nothing either: that of ``torch.optim`` takes a second for the compiler's front end.

    Args:
        parameters: float32; from now on they are parts of one vector, and their ``grad`` of another.
        weight_decay: as in :class:`torch.optim.AdamW`, and so are the rest and the state.

    Attributes:
        vector: all parameters, (numbers,).
        gradient: all gradients, (numbers,).
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self._parameters = list(parameters)
        self._begins: list[int] = []
        size = 0
        for parameter in self._parameters:
            self._begins.append(size)
            size += -(-parameter.numel() // ALIGNED) * ALIGNED
        self.vector, self.gradient, self._average, self._square = self._parameters[0].new_zeros(4, size).unbind()
        for parameter, part, gradient in zip(
            self._parameters, self._parts(self.vector), self._parts(self.gradient), strict=True
        ):
            parameter.data = part.copy_(parameter.detach())
            parameter.grad = gradient
        self._steps = torch.zeros((), dtype=torch.float32, device=self.vector.device)
        self.param_groups: list[dict[str, Any]] = [
            {"lr": 0.0, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        ]

    def step(self, lr: float) -> None:
        """Change all parameters by their gradients."""
        group = self.param_groups[0]
        group["lr"] = lr
        self._steps += 1
        torch._fused_adamw_(
            [self.vector],
            [self.gradient],
            [self._average],
            [self._square],
            [],
            [self._steps],
            lr=lr,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the state as ``torch.optim.AdamW`` has it."""
        averages, squares = self._parts(self._average), self._parts(self._square)
        return {
            "state": {
                position: {"step": self._steps, "exp_avg": average, "exp_avg_sq": square}
                for position, (average, square) in enumerate(zip(averages, squares, strict=True))
            },
            "param_groups": [{**self.param_groups[0], "params": list(range(len(self._parameters)))}],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict`, or ``torch.optim.AdamW`` of the same parameters, gave."""
        group = state["param_groups"][0]
        self.param_groups[0].update({name: group[name] for name in self.param_groups[0]})
        for position, (average, square) in enumerate(
            zip(self._parts(self._average), self._parts(self._square), strict=True)
        ):
            saved = state["state"][position]
            self._steps.copy_(saved["step"])
            average.copy_(saved["exp_avg"])
            square.copy_(saved["exp_avg_sq"])

    def _parts(self, vector: Tensor) -> list[Tensor]:
        return [
            vector[begin : begin + parameter.numel()].view(parameter.shape)
            for begin, parameter in zip(self._begins, self._parameters, strict=True)
        ]
