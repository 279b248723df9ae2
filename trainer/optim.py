"""The configured optimizer, its parameter groups, and its learning rates."""

import torch
from torch import nn

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


def materialise_state(optimizer: torch.optim.Optimizer) -> None:
    """Makes the optimizer's state exist before the first step, all zero, so that a checkpoint of
    any step has the same names. Optimizers make it lazily in `step` (hazards T7, T18)."""
    peaks = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    for group, peak in zip(optimizer.param_groups, peaks, strict=True):
        group["lr"] = peak
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, torch.Tensor):
                value.zero_()
