"""torch's AdamW on the parts that a rank holds, without DTensor's dispatch in between."""

from collections.abc import Iterable
from typing import Any, final

import torch
from torch import nn
from torch.optim.adamw import adamw

from ...parallel import local_part
from .elementwise import gradient, zeros

_STATE = ("exp_avg", "exp_avg_sq")


@final
class ShardedAdamW(torch.optim.Optimizer):
    """The same kernels and the same bits as torch.optim.AdamW, and its names of state.

    A DTensor's dispatch runs each operator on fake tensors to learn how its result lies. AdamW is
    elementwise, so that is known: a process that has just begun saves a quarter of a second, and
    every step a millisecond or two.

    Args:
        groups: each with `params` and `weight_decay`; parameters may be plain or DTensors.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        fused: bool,
        foreach: bool,
    ) -> None:
        rates = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0}
        super().__init__(groups, {**rates, "fused": fused, "foreach": foreach})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Steps all parameters that have a gradient."""
        for group in self.param_groups:
            ready = [parameter for parameter in group["params"] if parameter.grad is not None]
            own = [self._state(parameter, fused=group["fused"]) for parameter in ready]
            first, second = ([local_part(one[name]) for one in own] for name in _STATE)
            adamw(
                [local_part(parameter) for parameter in ready],
                [gradient(parameter) for parameter in ready],
                first,
                second,
                [],
                [one["step"] for one in own],
                foreach=group["foreach"],
                fused=group["fused"],
                amsgrad=False,
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )

    def make_state(self) -> None:
        """Makes all state that there is none of, zero."""
        for group in self.param_groups:
            for parameter in group["params"]:
                self._state(parameter, fused=group["fused"])

    def _state(self, parameter: nn.Parameter, *, fused: bool) -> dict[str, Any]:
        own: dict[str, Any] = self.state[parameter]
        if not own:
            # torch's fused kernels want the count on the parameter's device, the others do not.
            device = parameter.device if fused else "cpu"
            own["step"] = torch.zeros((), dtype=torch.float32, device=device)
            own |= {name: zeros(parameter, parameter.dtype) for name in _STATE}
        return own
