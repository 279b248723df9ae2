"""Context parallelism: each rank has a part of every sequence; attention alone sees all of it.

Owns what goes into a model and what comes out of it; how attention crosses ranks is `attention`.
"""

import inspect
from functools import partial
from typing import Any, final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._functional_collectives import all_reduce, wait_tensor

from .config import ContextAttention
from .layers.attend import Attend
from .layers.attention import gather_kv_attention, ulysses_attention
from .layers.ring import ring_attention
from .layers.router import Router
from .layers.sequence import gather_sequence, split_indices
from .plan import Plan

_CORES = {
    ContextAttention.gather: gather_kv_attention,
    ContextAttention.ulysses: ulysses_attention,
    ContextAttention.ring: ring_attention,
}


@final
class SequenceCut:
    """Takes this rank's part of a model's inputs, and makes its outputs whole again."""

    def __init__(self, module: nn.Module, plan: Plan, group: dist.ProcessGroup) -> None:
        self.plan = plan
        self.group = group
        self.first_name = next(iter(inspect.signature(module.forward).parameters))

    def part(self, first: Tensor, arguments: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """This rank's part of a call's arguments, and the positions that it has."""
        names, length = self.plan.sequence_inputs, first.shape[1]
        at = split_indices(length, self.group.rank(), self.group.size()).to(first.device)
        held = {
            name: value.index_select(1, at) if name in names and value is not None else value
            for name, value in arguments.items()
        }
        if self.plan.positions is not None and held.get(self.plan.positions) is None:
            held[self.plan.positions] = at.unsqueeze(0)
        return first.index_select(1, at) if self.first_name in names else first, held

    def whole(self, output: Tensor) -> Tensor:
        """Collective: an output of all positions, from each rank's; a sum is left as it is.

        Raises:
            ValueError: gradients are wanted of whole outputs: each rank would compute the loss of
                all positions, and their gradients would be summed as if they were parts.
        """
        if output.dim() < 2:
            return output
        if torch.is_grad_enabled():
            raise ValueError(
                f"parallel.context: found an output of shape {tuple(output.shape)} in training, "
                "needed the summed loss of this rank's positions, which the model computes where "
                "it is given targets; call the module with its targets, or set parallel.context=1"
            )
        return gather_sequence(output, self.group, 1)


def check_sequences(plan: Plan, model: str, *, has_attend: bool) -> None:
    """Refuses what cannot be cut along sequences; `model` is how the sentence calls the model."""
    if not plan.sequence_inputs or not has_attend:
        raise ValueError(
            f"parallel.context: found {model}, whose plan names no sequence_inputs or whose "
            "attention is not keepstep's Attend, needed both to cut sequences; give "
            "Plan(sequence_inputs=...) or set parallel.context=1"
        )


def cross_ranks(
    module: nn.Module, plan: Plan, kind: ContextAttention, group: dist.ProcessGroup
) -> None:
    """Has every `Attend` of the module reach over the group's ranks, and every `Router` count
    over them.

    Raises:
        ValueError: the plan does not say what is cut, or the model has no `Attend`.
    """
    has_attend = any(isinstance(child, Attend) for child in module.modules())
    check_sequences(plan, type(module).__name__, has_attend=has_attend)
    for child in module.modules():
        if isinstance(child, Attend):
            child.core = partial(_CORES[kind], group=group)
        elif isinstance(child, Router):
            child.whole = partial(_summed, group=group)


def _summed(counts: Tensor, *, group: dist.ProcessGroup) -> Tensor:
    # Functional, which selective recomputation can keep.
    summed: Tensor = wait_tensor(all_reduce(counts, "sum", group))
    return summed


def cut_around(module: nn.Module, cut: SequenceCut) -> None:
    """Cuts what the module is called with, and makes whole what it returns."""

    def before(_: nn.Module, args: Any, arguments: dict[str, Any]) -> Any:
        first, held = cut.part(args[0], arguments)
        return (first, *args[1:]), held

    module.register_forward_pre_hook(before, with_kwargs=True)
    module.register_forward_hook(lambda _, __, output: cut.whole(output))
