"""The optimizer step and the vote before it: one verdict for the whole world."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import torch
from torch import Tensor, nn

from ..parallel import LossScale, Topology, clip_, clip_factor, sum_
from .guard.findings import Odd, Spike
from .sums import Sums


class Vote(IntEnum):
    """The first places of the vector that is summed over the world at the end of a step; those of
    loss and norm follow."""

    skip = 0
    """Ranks whose part of the loss is not finite."""
    overflow = 1
    """Ranks whose part of the gradients is not finite."""
    stop = 2
    """Ranks whose guardian was asked to end the run."""
    save = 3
    """1 where a checkpoint is due (by rank 0's clock)."""
    snapshot = 4
    """1 where a snapshot into memory is due (by what rank 0 measured)."""
    corrupt = 5
    """Ranks that computed something else the second time."""
    suspect = 6
    """Ranks that then had another sum of all ranks' gradients."""
    look = 7
    """1 where a look for stragglers is due (by rank 0's clock)."""


Judge = Callable[[float, float], Spike | None]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What all ranks do together after one step, and the step's loss and gradient norms."""

    applied: bool
    loss: float
    grad_norm: float
    is_stop: bool
    is_save: bool
    is_snapshot: bool = False
    is_look: bool = False
    moment: int = field(default=0, compare=False)
    """When this rank left the vote, unix nanoseconds by its own clock; all leave it at once."""
    is_overflow: bool = False
    """The step was skipped for the loss scale's sake, which is lower now."""
    waited: float = 0.0
    """Seconds that this rank waited before it might change its state."""
    group_norms: dict[str, float] = field(default_factory=dict)
    """L2 norm of the gradient of each group of parameters."""
    spike: Spike | None = None
    """Why a step of finite numbers was not applied."""
    odd: Odd = Odd.none
    """Whether a rank's replay differed, for which the step was not applied."""


class Updater:
    """Unscale, norm, vote, judge, clip, step: in this order (hazard T9).

    Args:
        sums: how loss and norm are summed, and the parameters whose gradients are counted.
        copies: parameters that another stage counts: tied ones, which it owns.
        scale: the loss scale, which the verdict moves.
        end_step: called on all ranks after the verdict, with whether the step was applied.
        wait: blocks until the state may change, and answers the seconds that took.
        judge: says of the step's loss and norm, which are the same floats on all ranks, whether
            they are a spike; the step is not applied then.
    """

    def __init__(
        self,
        sums: Sums,
        copies: Sequence[nn.Parameter],
        optimizer: torch.optim.Optimizer,
        topology: Topology,
        *,
        clip_norm: float,
        scale: LossScale,
        end_step: Callable[[bool], None],
        wait: Callable[[], float],
        judge: Judge = lambda loss, norm: None,
    ) -> None:
        self.sums = sums
        self.parameters = [p for group in sums.groups.values() for p in group] + list(copies)
        self.optimizer = optimizer
        self.topology = topology
        self.clip_norm = clip_norm
        self.scale = scale
        self.end_step = end_step
        self.wait = wait
        self.judge = judge

    def update(
        self,
        parts: Tensor,
        *,
        wants_stop: bool,
        wants_save: bool,
        wants_snapshot: bool = False,
        wants_look: bool = False,
        odd: Odd = Odd.none,
    ) -> Verdict:
        """Collective: applies the gradients, or skips them on all ranks where one rank's loss or
        gradients are not finite, or its bits odd, or the loss or norm of all is a spike; clears
        them. Blocks.

        Args:
            parts: of the step's loss by this rank's micro-batches, 1-d, not scaled, as
                `forward_backward` returns them.
        """
        own = self.sums.own(parts)
        vote = torch.zeros(len(Vote) + self.sums.places, dtype=torch.float64)
        vote[Vote.skip] = not own.is_loss_finite
        vote[Vote.overflow] = not own.are_gradients_finite
        vote[Vote.stop] = wants_stop
        vote[Vote.save] = wants_save
        vote[Vote.snapshot] = wants_snapshot
        vote[Vote.corrupt] = odd is Odd.corrupt
        vote[Vote.suspect] = odd is Odd.suspect
        vote[Vote.look] = wants_look
        vote[len(Vote) :] = torch.tensor(own.places, dtype=torch.float64)
        if self.topology.world_size > 1:
            sum_(vote, self.topology.control)
        moment = time.time_ns()
        wishes = vote[: len(Vote)].tolist()
        skip, overflow, stop, save, snapshot, corrupt, suspect, look = (wish > 0 for wish in wishes)
        loss, norms = self.sums.read(vote[len(Vote) :].tolist())
        by_group = [one / self.scale.scale for one in norms]
        norm = math.hypot(*by_group) if by_group else 0.0
        judged = self.judge(loss, norm)
        spike = None if skip or overflow else judged
        applied = not (skip or overflow or spike or corrupt or suspect)
        is_overflow = overflow and not skip and self.scale.can_shrink
        waited = self.wait() if applied else 0.0
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
            is_snapshot=snapshot,
            is_look=look,
            moment=moment,
            waited=waited,
            is_overflow=is_overflow,
            group_norms=dict(zip(self.sums.groups, by_group, strict=True)),
            spike=spike,
            odd=Odd.corrupt if corrupt else Odd.suspect if suspect else Odd.none,
        )
