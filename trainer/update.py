"""The optimizer step and the vote before it: one verdict for the whole world."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import torch
from torch import Tensor, nn

from ..parallel import LossScale, Topology, clip_, clip_factor, squares, sum_


class Vote(IntEnum):
    """The places of the vector that is summed over the world at the end of a step."""

    loss = 0
    """This rank's part of the step's loss."""
    skip = 1
    """Ranks whose part of the loss is not finite."""
    overflow = 2
    """Ranks whose part of the gradients is not finite."""
    stop = 3
    """Ranks whose guardian was asked to end the run."""
    save = 4
    """1 where a checkpoint is due (by rank 0's clock)."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What all ranks do together after one step, and the step's loss and gradient norms."""

    applied: bool
    loss: float
    grad_norm: float
    is_stop: bool
    is_save: bool
    is_overflow: bool = False
    """The step was skipped for the loss scale's sake, which is lower now."""
    group_norms: dict[str, float] = field(default_factory=dict)
    """L2 norm of the gradient of each group of parameters."""


class Updater:
    """Unscale, norm, vote, clip, step: in this order (hazard T9).

    Args:
        groups: the parameters whose gradients are counted, by name of a group; the same names in
            the same order on all ranks, whatever a rank has of each.
        copies: parameters that another stage counts: tied ones, which it owns.
        scale: the loss scale, which the verdict moves.
        end_step: called on all ranks after the verdict, with whether the step was applied.
    """

    def __init__(
        self,
        groups: Mapping[str, Sequence[nn.Parameter]],
        copies: Sequence[nn.Parameter],
        optimizer: torch.optim.Optimizer,
        topology: Topology,
        *,
        clip_norm: float,
        scale: LossScale,
        end_step: Callable[[bool], None],
    ) -> None:
        self.groups = groups
        self.parameters = [p for group in groups.values() for p in group] + list(copies)
        self.optimizer = optimizer
        self.topology = topology
        self.clip_norm = clip_norm
        self.scale = scale
        self.end_step = end_step

    def update(self, part: Tensor, *, wants_stop: bool, wants_save: bool) -> Verdict:
        """Collective: applies the gradients, or skips them on all ranks where one rank's loss or
        gradients are not finite; clears them. Blocks.

        Args:
            part: this rank's part of the step's loss, 0-d, not scaled, as `forward_backward`
                returns it.
        """
        parts, own = squares(self.groups), float(part)
        vote = torch.zeros(len(Vote) + len(parts), dtype=torch.float64)
        vote[Vote.loss] = own
        vote[Vote.skip] = not math.isfinite(own)
        vote[Vote.overflow] = not all(map(math.isfinite, parts))
        vote[Vote.stop] = wants_stop
        vote[Vote.save] = wants_save
        vote[len(Vote) :] = torch.tensor(parts, dtype=torch.float64)
        if self.topology.world_size > 1:
            sum_(vote, self.topology.control)
        loss, *wishes = vote[: len(Vote)].tolist()
        skip, overflow, stop, save = (wish > 0 for wish in wishes)
        by_group = (vote[len(Vote) :].sqrt() / self.scale.scale).tolist()
        norm = math.hypot(*by_group) if by_group else 0.0
        applied = not (skip or overflow)
        is_overflow = overflow and not skip and self.scale.can_shrink
        if applied:
            clip_(self.parameters, clip_factor(norm, self.clip_norm) / self.scale.scale)
            self.optimizer.step()
        self.end_step(applied)
        self.optimizer.zero_grad()
        if applied or is_overflow:  # a loss that is not finite says nothing of the scale
            self.scale.update(overflowed=is_overflow)
        return Verdict(
            applied=applied,
            loss=loss,
            grad_norm=norm,
            is_stop=stop,
            is_save=save,
            is_overflow=is_overflow,
            group_norms=dict(zip(self.groups, by_group, strict=True)),
        )
