"""The configured optimizer, its parameter groups, and its learning rates."""

import torch
from torch import Tensor, nn

from .config import OptimConfig


def build_adamw(config: OptimConfig, module: nn.Module) -> torch.optim.AdamW:
    """AdamW over the module's parameters; weight decay on matrices only (two or more dims)."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    matrices = [p for p in parameters if p.ndim >= 2]
    vectors = [p for p in parameters if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=True,
    )


class LearningRates:
    """Sets an optimizer's learning rates to a part of their peaks, which it reads once."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.peaks = [float(group["lr"]) for group in optimizer.param_groups]

    def set(self, part: float) -> float:
        """Scales every group's rate to `part` of its peak; answers the first group's."""
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * part
        return self.peaks[0] * part


def materialise_state(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Makes the state of parameters that have none, all zero, and leaves the parameters as they
    are; so that a checkpoint of any step has the same names. Optimizers make it lazily in `step`
    (hazards T7, T18).

    Returns:
        The parameters whose state this made.
    """
    bare = {
        p for group in optimizer.param_groups for p in group["params"] if not optimizer.state[p]
    }
    if not bare:
        return []
    peaks = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter) if parameter in bare else None
    optimizer.step()
    optimizer.zero_grad()
    for group, peak in zip(optimizer.param_groups, peaks, strict=True):
        group["lr"] = peak
    made = [parameter for parameter in bare if optimizer.state[parameter]]
    for value in (value for parameter in made for value in optimizer.state[parameter].values()):
        if isinstance(value, Tensor):
            value.zero_()
    return made


def forget_state(optimizer: torch.optim.Optimizer, made: list[Tensor]) -> None:
    """Lets the optimizer make the state of these parameters itself at its first step: its own first
    values need not be zero (NAdam, ASGD, Rprop)."""
    for parameter in made:
        del optimizer.state[parameter]
