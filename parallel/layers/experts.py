"""The experts of a layer, and expert parallelism: which rank has which, and how rows travel.

Owns no choice of experts; that is the router's. Shapes: N rows, E experts, D width, I inner width.
"""

from collections.abc import Callable
from functools import partial
from typing import final

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed._functional_collectives import (
    all_to_all_single,
    all_to_all_single_autograd,
    wait_tensor,
)
from torch.distributed.tensor import Shard

from ..mesh import EXPERT, TENSOR, Role, Topology
from ..plan import Plan
from ..swap import see_local

Compute = Callable[[Tensor, Tensor], Tensor]
_GROUPED_CAPABILITY = (9, 0)
_GROUPED_BYTES = 16


@final
class Experts(nn.Module):
    """SwiGLU feed-forwards (arXiv 2002.05202), each for the rows that were routed to it.

    `travel` is what brings rows to their experts and back: nothing, until the layout replaces it.

    Args:
        num_experts: E.
        width: D, features of a row.
        inner: I, features between the two matrix products.
    """

    travel: Callable[[Tensor, Tensor, Compute], Tensor]

    def __init__(self, num_experts: int, width: int, inner: int) -> None:
        super().__init__()
        self.num_experts, self.inner = num_experts, inner
        self.gate_proj = nn.Parameter(torch.empty(num_experts, inner, width))
        self.up_proj = nn.Parameter(torch.empty(num_experts, inner, width))
        self.down_proj = nn.Parameter(torch.empty(num_experts, width, inner))
        self.travel = stay

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, rows_ND: Tensor, counts_E: Tensor) -> Tensor:
        """Returns (N, D); collective over the ranks that share the experts.

        Args:
            rows_ND: rows in the order of their experts.
            counts_E: how many rows each expert has, int64, together N; any may be 0.
        """
        return self.travel(rows_ND, counts_E, self._compute)

    def _compute(self, rows_ND: Tensor, counts_E: Tensor) -> Tensor:
        weights = (self.gate_proj, self.up_proj, self.down_proj)
        multiply = _grouped if _has_grouped(rows_ND, weights) else _one_by_one
        return multiply(rows_ND, counts_E, *weights)


def _one_by_one(
    rows_ND: Tensor, counts_E: Tensor, gate_EID: Tensor, up_EID: Tensor, down_EDI: Tensor
) -> Tensor:
    """Expert after expert. One without rows computes too: its gradient is zero and not missing, so
    that all ranks reduce the same parameters."""
    shares = rows_ND.split(counts_E.tolist())
    weights = zip(gate_EID.unbind(), up_EID.unbind(), down_EDI.unbind(), strict=True)
    return torch.cat(
        [
            F.linear(F.silu(F.linear(rows, gate)) * F.linear(rows, up), down)
            for rows, (gate, up, down) in zip(shares, weights, strict=True)
        ]
    )


def _grouped(
    rows_ND: Tensor, counts_E: Tensor, gate_EID: Tensor, up_EID: Tensor, down_EDI: Tensor
) -> Tensor:
    """All experts in one kernel, which need not be told the counts on the host."""
    ends = counts_E.cumsum(0).to(torch.int32)
    gate, up = (
        F.grouped_mm(rows_ND, weight.transpose(1, 2), offs=ends) for weight in (gate_EID, up_EID)
    )
    return F.grouped_mm(F.silu(gate) * up, down_EDI.transpose(1, 2), offs=ends)


def _has_grouped(rows_ND: Tensor, weights: tuple[Tensor, ...]) -> bool:
    """Whether the grouped kernel takes these: bfloat16, CUDA, rows of whole 16 bytes."""
    return (
        rows_ND.is_cuda
        and rows_ND.dtype is torch.bfloat16
        and torch.cuda.get_device_capability(rows_ND.device) >= _GROUPED_CAPABILITY
        and all(
            weight.shape[-1] * weight.element_size() % _GROUPED_BYTES == 0 for weight in weights
        )
    )


def stay(rows_ND: Tensor, counts_E: Tensor, compute: Compute) -> Tensor:
    """All experts are here."""
    return compute(rows_ND, counts_E)


def cross(
    rows_ND: Tensor, counts_E: Tensor, compute: Compute, *, group: dist.ProcessGroup
) -> Tensor:
    """Collective: each rank of the group has an equal part of the experts, in order; rows go to
    them by an all-to-all and come back by another (GShard, arXiv 2006.16668). Blocks.

    Nothing is dropped or padded, so what a row becomes does not depend on the number of ranks.
    """
    size = group.size()
    sent_RL = counts_E.view(size, -1)
    # Functional collectives, which selective recomputation can keep.
    received_RL = wait_tensor(all_to_all_single(sent_RL, None, None, group)).view_as(sent_RL)
    sent, received = torch.stack((sent_RL.sum(1), received_RL.sum(1))).tolist()
    rows_ND = rows_ND.contiguous()
    arrived_ND = wait_tensor(all_to_all_single_autograd(rows_ND, received, sent, group))
    # By source and then by expert they came; by expert and then by source they are computed.
    experts = torch.arange(received_RL.shape[1], device=rows_ND.device).repeat(size)
    order = experts.repeat_interleave(received_RL.flatten()).argsort(stable=True)
    back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)).to(order))
    done_ND = compute(permute(arrived_ND, order, back), received_RL.sum(0))
    done_ND = permute(done_ND, back, order)
    back_ND: Tensor = wait_tensor(all_to_all_single_autograd(done_ND, sent, received, group))
    return back_ND


def permute(rows_ND: Tensor, order_N: Tensor, inverse_N: Tensor) -> Tensor:
    """Returns `rows_ND[order_N]`, where `inverse_N` undoes `order_N`; its backward is a look-up
    too, and no sum whose order could change."""
    permuted: Tensor = _Permute.apply(rows_ND, order_N, inverse_N)
    return permuted


class _Permute(torch.autograd.Function):
    @staticmethod
    def forward(ctx: "_Permute", rows: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return rows[order]

    @staticmethod
    def backward(ctx: "_Permute", grad: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return grad[inverse], None, None


def apply_experts(module: nn.Module, plan: Plan, topology: Topology) -> None:
    """Gives each rank its part of every `Experts`, in place; nothing is communicated.

    Whole experts are dealt out over the mesh axis `expert`; over `tensor` each one is cut along its
    inner features, so that a rank's outputs are a part of a sum over the ranks of `tensor`, which
    whoever holds the experts must take.

    Raises:
        ValueError: the experts of the module are not those of the plan, or the ranks cannot share
            their inner features.
    """
    mesh = topology.expert_mesh if topology.expert_mesh is not None else topology.tensor_mesh
    for name, child in module.named_modules():
        if not isinstance(child, Experts):
            continue
        _check(name, child, plan, topology.degrees.tensor)
        if mesh is None:
            continue
        assert mesh.mesh_dim_names is not None
        for parameters, inner in ((("gate_proj", "up_proj"), 1), (("down_proj",), 2)):
            by_axis = {EXPERT: Shard(0), TENSOR: Shard(inner)}
            placements = [by_axis[axis] for axis in mesh.mesh_dim_names]
            see_local(child, parameters, mesh, placements, gradient=placements)
        if (group := topology.group(Role.EXPERT)) is not None:
            child.travel = partial(cross, group=group)


def _check(name: str, experts: Experts, plan: Plan, tensor: int) -> None:
    if experts.num_experts != plan.num_experts:
        raise ValueError(
            f"plan.num_experts: found {plan.num_experts}, needed {experts.num_experts}, the "
            f"experts of {name}; give Plan(num_experts={experts.num_experts})"
        )
    if experts.inner % tensor:
        fitting = max(n for n in range(1, tensor) if experts.inner % n == 0)
        raise ValueError(
            f"parallel.tensor: found {tensor} for {name}, whose experts have {experts.inner} inner "
            f"features, needed a divisor of them; set parallel.tensor={fitting}"
        )
