"""What a block's forward keeps for its backward, and how blocks are compiled."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    CheckpointImpl,
    checkpoint_wrapper,
)
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from ..config import MemoryConfig, Recompute

_aten, _c10d = torch.ops.aten, torch.ops._c10d_functional
# What takes long to compute or waited for other ranks; all else is cheap to compute again.
_KEPT = {
    *(_aten.mm.default, _aten.addmm.default, _aten.bmm.default, _aten._grouped_mm.default),
    _aten._scaled_mm.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
    *(_c10d.all_gather_into_tensor.default, _c10d.reduce_scatter_tensor.default),
    *(_c10d.all_reduce.default, _c10d.all_to_all_single.default),
}


def apply_recompute(module: nn.Module, units: Sequence[str], config: MemoryConfig) -> None:
    """Wraps every `recompute_every`-th unit of a stage in place, by what `config.recompute` asks
    for, and leaves the others.

    Random numbers of the recomputation are those of the first time. Sources: Chen et al., arXiv
    1604.06174; selective by operator as in arXiv 2205.05198.
    """
    if config.recompute not in (Recompute.full, Recompute.selective):
        return
    for name in units[:: config.recompute_every]:
        block = module.get_submodule(name)
        replace_module(module, name, _recomputing(block, config.recompute))


def replace_module(module: nn.Module, name: str, by: nn.Module) -> None:
    """Puts another module in the place of a named one."""
    parent, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(parent), leaf, by)


def _recomputing(block: nn.Module, kind: Recompute) -> nn.Module:
    selective: dict[str, Any] = {}
    if kind is Recompute.selective:
        selective["context_fn"] = partial(create_selective_checkpoint_contexts, _choose)
    return checkpoint_wrapper(block, CheckpointImpl.NO_REENTRANT, **selective)


def _choose(_: object, operator: Any, *__: object, **___: object) -> CheckpointPolicy:
    is_kept = operator in _KEPT
    return CheckpointPolicy.MUST_SAVE if is_kept else CheckpointPolicy.PREFER_RECOMPUTE


def apply_compile(module: nn.Module, units: Sequence[str], config: MemoryConfig) -> None:
    """Has each unit compiled at its first call, in place: names stay as they are (hazard T19).

    The budget of recompute=budget is torch's own setting and holds for the whole process.
    """
    if not config.compile:
        return
    if config.recompute is Recompute.budget:
        torch._functorch.config.activation_memory_budget = config.activation_budget
    for name in units:
        module.get_submodule(name).compile()
