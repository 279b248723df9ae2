"""Momentum descent as a rule. torch's own refuses its fused step on DTensors, and mixes up a
parameter whose first gradient comes late with those that have momentum already."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch

from .rule import Tensors


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class SGDRule:
    """Sutskever et al. (2013) in torch.optim.SGD's form, without dampening; the same numbers."""

    momentum: float
    nesterov: bool

    @property
    def moments(self) -> tuple[str, ...]:
        """torch's name; none without momentum."""
        return ("momentum_buffer",) if self.momentum else ()

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
        slopes: Tensors = torch._foreach_add(
            gradients, torch._foreach_mul(parameters, weight_decay)
        )
        if self.momentum:
            sums = moments["momentum_buffer"]
            torch._foreach_mul_(sums, self.momentum)
            torch._foreach_add_(sums, slopes)
            ahead = torch._foreach_mul(sums, self.momentum)
            slopes = torch._foreach_add(slopes, ahead) if self.nesterov else sums
        torch._foreach_sub_(parameters, torch._foreach_mul(slopes, lr))
