"""State that exists before the first step, so that every checkpoint has the same names."""

from collections.abc import Collection

import torch
from torch import Tensor

from ...parallel import local_part
from .elementwise import Elementwise, zeros
from .muon import Muon
from .sharded import ShardedAdamW


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
    if isinstance(optimizer, Elementwise | Muon | ShardedAdamW):
        optimizer.make_state()
    else:
        _make_by_step(optimizer, bare)
    return [parameter for parameter in bare if optimizer.state[parameter]]


def _make_by_step(optimizer: torch.optim.Optimizer, bare: Collection[Tensor]) -> None:
    """Of an optimizer that makes state in `step` alone."""
    peaks = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            parameter.grad = zeros(parameter, parameter.dtype) if parameter in bare else None
    optimizer.step()
    optimizer.zero_grad()
    for group, peak in zip(optimizer.param_groups, peaks, strict=True):
        group["lr"] = peak
    for value in (value for parameter in bare for value in optimizer.state[parameter].values()):
        if isinstance(value, Tensor):
            local_part(value.detach()).zero_()


def forget_state(optimizer: torch.optim.Optimizer, made: list[Tensor]) -> None:
    """Lets the optimizer make the state of these parameters itself at its first step: its own first
    values need not be zero (NAdam, ASGD, Rprop)."""
    for parameter in made:
        del optimizer.state[parameter]
