"""AdamW as a rule, for what torch's own cannot do: parameters or moments in bfloat16."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch

from .rule import Tensors


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class AdamWRule:
    """Loshchilov and Hutter, arXiv 1711.05101; the same numbers as torch.optim.AdamW."""

    beta1: float
    beta2: float
    eps: float

    @property
    def moments(self) -> tuple[str, ...]:
        """torch's names."""
        return ("exp_avg", "exp_avg_sq")

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
        first, second = moments["exp_avg"], moments["exp_avg_sq"]
        torch._foreach_mul_(first, self.beta1)
        torch._foreach_add_(first, torch._foreach_mul(gradients, 1 - self.beta1))
        squares = torch._foreach_mul(gradients, gradients)
        torch._foreach_mul_(squares, 1 - self.beta2)
        torch._foreach_mul_(second, self.beta2)
        torch._foreach_add_(second, squares)
        spread = torch._foreach_sqrt(second)
        torch._foreach_div_(spread, math.sqrt(1 - self.beta2**step))
        torch._foreach_add_(spread, self.eps)
        moves = torch._foreach_div(first, spread)
        torch._foreach_mul_(moves, lr / (1 - self.beta1**step))
        torch._foreach_mul_(parameters, 1 - lr * weight_decay)
        torch._foreach_sub_(parameters, moves)
