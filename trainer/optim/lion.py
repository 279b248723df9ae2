"""Lion as a rule: each element moves by the learning rate, up or down."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch

from .rule import Tensors


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class LionRule:
    """Chen et al., "Symbolic discovery of optimization algorithms", arXiv 2302.06675, program 1."""

    beta1: float
    beta2: float

    @property
    def moments(self) -> tuple[str, ...]:
        """One."""
        return ("exp_avg",)

    def __call__(
        self,
        parameters: Tensors,
        gradients: Tensors,
        moments: Mapping[str, Tensors],
        *,
        lr: float,
        weight_decay: float,
        step: int,
    ) -> None:
        """One step in place."""
        average = moments["exp_avg"]
        moves = torch._foreach_mul(average, self.beta1)
        torch._foreach_add_(moves, torch._foreach_mul(gradients, 1 - self.beta1))
        torch._foreach_sign_(moves)
        torch._foreach_mul_(moves, lr)
        torch._foreach_mul_(parameters, 1 - lr * weight_decay)
        torch._foreach_sub_(parameters, moves)
        torch._foreach_mul_(average, self.beta2)
        torch._foreach_add_(average, torch._foreach_mul(gradients, 1 - self.beta2))
