"""State that exists before the first step, so that every checkpoint has the same names."""

import torch
from torch import Tensor

from .elementwise import local, zeros


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
            parameter.grad = zeros(parameter, parameter.dtype) if parameter in bare else None
    optimizer.step()
    optimizer.zero_grad()
    for group, peak in zip(optimizer.param_groups, peaks, strict=True):
        group["lr"] = peak
    made = [parameter for parameter in bare if optimizer.state[parameter]]
    for value in (value for parameter in made for value in optimizer.state[parameter].values()):
        if isinstance(value, Tensor):
            local(value.detach()).zero_()
    return made


def forget_state(optimizer: torch.optim.Optimizer, made: list[Tensor]) -> None:
    """Lets the optimizer make the state of these parameters itself at its first step: its own first
    values need not be zero (NAdam, ASGD, Rprop)."""
    for parameter in made:
        del optimizer.state[parameter]
