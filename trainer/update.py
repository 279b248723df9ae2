"""The optimizer step and the vote before it: one verdict for the whole world."""

import math
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor, nn

from ..parallel import Topology, clip_, gradient_norm, sum_


class Vote(IntEnum):
    """The places of the vector that is summed over the world at the end of a step."""

    loss = 0
    """This rank's part of the step's loss."""
    skip = 1
    """Ranks whose loss or gradient norm is not finite."""
    stop = 2
    """Ranks whose guardian was asked to end the run."""
    save = 3
    """1 where a checkpoint is due (by rank 0's clock)."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What all ranks do together after one step, and the step's loss and gradient norm."""

    applied: bool
    loss: float
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

    def update(self, part: Tensor, *, wants_stop: bool, wants_save: bool) -> Verdict:
        """Collective: applies the gradients, or skips them on all ranks where one rank's loss or
        norm is not finite; clears them. Blocks.

        Args:
            part: this rank's part of the step's loss, 0-d, as `forward_backward` returns it.
        """
        norm = gradient_norm(self.parameters)
        grad_norm, own = float(norm), float(part)
        vote = torch.zeros(len(Vote), dtype=torch.float64)
        vote[Vote.loss] = own
        vote[Vote.skip] = not (math.isfinite(grad_norm) and math.isfinite(own))
        vote[Vote.stop] = wants_stop
        vote[Vote.save] = wants_save
        if self.topology.world_size > 1:
            sum_(vote, self.topology.control)
        loss, *wishes = vote.tolist()
        skip, stop, save = (wish > 0 for wish in wishes)
        if not skip:
            clip_(self.parameters, norm, self.clip_norm)
            self.optimizer.step()
        self.optimizer.zero_grad()
        return Verdict(applied=not skip, loss=loss, grad_norm=grad_norm, is_stop=stop, is_save=save)
