"""One sequence over the ranks of a group: which positions a rank holds, and how parts are moved.

A sequence is cut into 2 n chunks for n ranks, and rank r holds chunks r and 2 n - 1 - r, so that
under a causal mask all ranks have the same work (Llama 3, arXiv 2407.21783, section 3.3.2). Parts
are tensors (n, ...) with a rank's part at its index. What is computed from them is attention's.
"""

from typing import Any, final

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


def split_indices(length: int, rank: int, size: int) -> Tensor:
    """Returns the positions that `rank` of `size` holds, int64 (length / size,), on the CPU.

    Raises:
        ValueError: length is no multiple of 2 x size.
    """
    step = 2 * size
    if length < 1 or length % step:
        nearest = max(1, round(length / step)) * step
        raise ValueError(
            f"data.sequence_length: found {length}, needed a multiple of {step}, which is 2 x "
            f"parallel.context, for each rank takes two chunks; set data.sequence_length={nearest}"
        )
    return cut(torch.arange(length), size, 0)[rank].clone()


def gather_sequence(x: Tensor, group: dist.ProcessGroup, dim: int) -> Tensor:
    """Collective: returns the whole sequence in natural order, the inverse of `split_indices`.

    Differentiable once: what the ranks' gradients say of this rank's part is summed, in fp32 at
    least and rounded once, in an order that no backend chooses.

    Args:
        x: this rank's part, T / n positions along `dim`; of equal shape and dtype on all ranks.

    Returns:
        Of x's shape and dtype but T along `dim`; equal on all ranks.
    """
    parts: Tensor = _AllGather.apply(x, group)
    return merge(parts, dim % x.ndim)


def exchange(parts: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Collective: sends part i to rank i, and returns what rank i sent here at index i.

    Differentiable once: gradients take the way back.
    """
    received: Tensor = _AllToAll.apply(parts, group)
    return received


def merge(parts: Tensor, dim: int) -> Tensor:
    """Puts ranks' parts, each with its positions along `dim`, together in natural order."""
    halves = parts.unflatten(dim + 1, (2, -1))
    # The second halves run backwards: the last chunk is rank 0's.
    chunks = torch.cat((halves.select(dim + 1, 0), halves.select(dim + 1, 1).flip(0)))
    return chunks.movedim(0, dim).flatten(dim, dim + 1)


def cut(whole: Tensor, size: int, dim: int) -> Tensor:
    """Cuts a sequence in natural order into the parts of `size` ranks; the inverse of `merge`."""
    first, second = whole.unflatten(dim, (2 * size, -1)).movedim(dim, 0).chunk(2)
    return torch.stack((first, second.flip(0)), dim + 1).flatten(dim + 1, dim + 2)


@final
class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        parts = x.new_empty((dist.get_world_size(group), *x.shape))
        # torch 2.13 renames all_gather_into_tensor and warns of the old name; this name stays.
        dist.all_gather(list(parts.unbind()), x.contiguous(), group)
        return parts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_parts: Tensor) -> tuple[Tensor, None]:
        # A reduce-scatter would send as much and leave dtype and order of the sum to the backend.
        # torch adds up narrow dtypes in fp32 and rounds once.
        return _all_to_all(grad_parts, ctx.group).sum(0), None


@final
class _AllToAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parts: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return _all_to_all(parts, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_parts: Tensor) -> tuple[Tensor, None]:
        return _all_to_all(grad_parts, ctx.group), None


def _all_to_all(parts: Tensor, group: dist.ProcessGroup) -> Tensor:
    parts = parts.contiguous()
    received = torch.empty_like(parts)
    dist.all_to_all_single(received, parts, group=group)
    return received
