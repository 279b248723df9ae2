"""The optimizer step and the vote before it: one verdict for the whole world."""

import math
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor, nn

from ..parallel import Topology, clip_, gradient_norm, max_


class Wish(IntEnum):
    """What one rank may ask of all, at the end of a step; the places of the vote's vector."""

    skip = 0
    """Loss or gradient norm is not finite here."""
    stop = 1
    """This rank's guardian was asked to end the run."""
    save = 2
    """A checkpoint is due (by rank 0's clock)."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What all ranks do together after one step."""

    applied: bool
    grad_norm: float
    is_stop: bool
    is_save: bool


class Updater:
    """Norm, vote, clip, step: in this order (hazard T9)."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        topology: Topology,
        *,
        clip_norm: float,
    ) -> None:
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.optimizer = optimizer
        self.topology = topology
        self.clip_norm = clip_norm

    def update(self, loss: Tensor, *, wants_stop: bool, wants_save: bool) -> Verdict:
        """Collective: applies the gradients, or skips them on all ranks where one rank's loss or
        norm is not finite; clears them. Blocks."""
        norm = gradient_norm(self.parameters)
        value = float(norm)
        wishes = torch.zeros(len(Wish), dtype=torch.float32)
        wishes[Wish.skip] = float(not (math.isfinite(value) and math.isfinite(float(loss))))
        wishes[Wish.stop] = float(wants_stop)
        wishes[Wish.save] = float(wants_save)
        if self.topology.world_size > 1:
            max_(wishes, self.topology.control)
        skip, stop, save = (bool(wish) for wish in wishes.tolist())
        if not skip:
            clip_(self.parameters, norm, self.clip_norm)
            self.optimizer.step()
        self.optimizer.zero_grad()
        return Verdict(applied=not skip, grad_norm=value, is_stop=stop, is_save=save)
