"""Projection to the vocabulary and cross entropy in one, over chunks of tokens.

Full logits never exist, on any rank, nor are they computed twice. How weight and hidden get to a
rank and how partial gradients are summed is the caller's. Shapes: N tokens, D width, V rows of the
vocabulary on this rank.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..collectives import max_, sum_


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    ignore_index: int = -100,
    chunk_tokens: int = 1024,
    group: dist.ProcessGroup | None = None,
    vocabulary_start: int = 0,
) -> Tensor:
    """Collective over `group`: sums the cross entropy of `hidden @ weight.T`, in nats.

    The gradients are made in the forward pass, while a chunk's logits are at hand, and backward
    only scales them (Liger Kernel, arXiv 2410.10989). Over a group each rank knows its own rows of
    the vocabulary, and two all-reduces of a few numbers a token make up the softmax (Megatron-LM,
    arXiv 1909.08053); there are none in backward. It holds chunk_tokens x V logits at a time, in
    fp32 at least, and the gradients: of hidden in its dtype, of weight in fp32 at least.

    Args:
        hidden: (..., D), equal on all ranks of the group. Its gradient over a group is PARTIAL:
            each rank has what its own rows of the vocabulary give, and the caller sums them.
        weight: (V, D) in hidden's dtype: all rows of the vocabulary, or over a group this rank's,
            which may be more or fewer than another's, and none. Its gradient is this rank's own.
        targets: (...), int64 ids of the whole vocabulary, equal on all ranks of the group.
        ignore_index: a target that adds no loss and no gradient.
        chunk_tokens: tokens whose logits are held at a time; changes no more than rounding.
        group: the ranks that share the vocabulary; None where this one has all of it.
        vocabulary_start: id of the first row of `weight`.

    Returns:
        0-d, float32 (float64 for float64), equal on all ranks of the group; 0 where every target
        is ignored. NaN where a target is a row of no rank, or of several. Not finite wherever
        torch.nn.functional.cross_entropy's is not. It can be differentiated once.

    Raises:
        ValueError: chunk_tokens is below 1.
    """
    if chunk_tokens < 1:
        raise ValueError(
            f"chunk_tokens: found {chunk_tokens}, needed 1 or more; leave it out for the default"
        )
    vocabulary = _Vocabulary(group, vocabulary_start, ignore_index)
    flat = (hidden.reshape(-1, hidden.shape[-1]), weight, targets.reshape(-1))
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        loss: Tensor = _LinearCrossEntropy.apply(*flat, vocabulary, chunk_tokens)
        return loss
    return _sweep(*flat, vocabulary, chunk_tokens, (False, False))[0]


@final
@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """Who has which rows, and how a chunk's logits become probabilities together."""

    group: dist.ProcessGroup | None
    start: int
    ignore_index: int

    def valid(self, targets_N: Tensor) -> Tensor:
        return targets_N != self.ignore_index

    def softmax_(self, logits_NV: Tensor, targets_N: Tensor) -> "_Chunk":
        """Collective: turns logits into exponentials, in place, and returns what goes with them."""
        rows = logits_NV.shape[1]
        valid_N, column_N = self.valid(targets_N), targets_N - self.start
        owned_N = valid_N & (column_N >= 0) & (column_N < rows)
        column_N = torch.where(owned_N, column_N, 0)
        # A rank without rows has no maximum and no column to look at, but is in the collectives.
        if rows:
            maximum_N = max_(logits_NV.amax(-1), self.group)
            logits_NV.sub_(maximum_N.unsqueeze(-1))
            target_N = torch.where(owned_N, logits_NV.gather(1, column_N.unsqueeze(1))[:, 0], 0)
        else:
            max_(logits_NV.new_full(targets_N.shape, -torch.inf), self.group)
            target_N = logits_NV.new_zeros(targets_N.shape)
        # max_ may lose a NaN; it comes back in this sum, to all ranks.
        hot_N = owned_N.to(logits_NV.dtype)
        sums = torch.stack((logits_NV.exp_().sum(-1), target_N, hot_N))
        total_N, target_N, owners_N = sum_(sums, self.group).unbind()
        # A target that nobody has would else pass for one with the largest logit.
        known_N = torch.where(owners_N == 1, 1.0, torch.nan)
        scale_N = torch.where(valid_N, known_N, 0) / total_N
        loss_N = torch.where(valid_N, (total_N.log() - target_N) * known_N, 0)
        return _Chunk(loss_N.sum(), scale_N, hot_N, column_N)


@final
@dataclass(frozen=True, slots=True)
class _Chunk:
    """What a chunk's exponentials lack to be a gradient."""

    loss: Tensor
    scale_N: Tensor
    """What makes probabilities of exponentials; 0 where the target is ignored."""
    hot_N: Tensor
    """1 where the target is a row of this rank, in `column_N`; else 0."""
    column_N: Tensor

    def gradient_(self, exponentials_NV: Tensor) -> Tensor:
        """Probability less one at the target, in place."""
        exponentials_NV.mul_(self.scale_N.unsqueeze(-1))
        if exponentials_NV.shape[1]:
            at = (torch.arange(len(self.column_N), device=self.column_N.device), self.column_N)
            exponentials_NV[at] -= self.hot_N
        return exponentials_NV


@final
class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        targets_N: Tensor,
        vocabulary: _Vocabulary,
        chunk_tokens: int,
    ) -> Tensor:
        needed = (hidden_ND.requires_grad, weight_VD.requires_grad)
        loss, *gradients = _sweep(hidden_ND, weight_VD, targets_N, vocabulary, chunk_tokens, needed)
        ctx.dtype = weight_VD.dtype
        ctx.save_for_backward(*gradients)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        # Not in place: a graph that is kept may be gone through again. The weight's is scaled in
        # fp32, for the sum over a batch may be more than fp16 holds until it is divided.
        scaled = (
            None if gradient is None else (gradient * grad_output).to(ctx.dtype)
            for gradient in ctx.saved_tensors
        )
        return (*scaled, None, None, None)


@torch.no_grad()
def _sweep(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    vocabulary: _Vocabulary,
    chunk_tokens: int,
    needed: tuple[bool, bool],
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Collective: the loss, and the gradients of hidden and weight where `needed` says so."""
    wide = torch.promote_types(weight_VD.dtype, torch.float32)
    loss = torch.zeros((), dtype=wide, device=weight_VD.device)
    grad_hidden_ND = torch.empty_like(hidden_ND) if needed[0] else None
    grad_weight_VD = torch.zeros_like(weight_VD, dtype=wide) if needed[1] else None
    for part, raw_NV, logits_NV in _buffers(hidden_ND, weight_VD, chunk_tokens, wide):
        # An ignored token's row is 0 from here on, whatever stood in it.
        ignored_N1 = ~vocabulary.valid(targets_N[part]).unsqueeze(-1)
        chunk_ND = hidden_ND[part].masked_fill(ignored_N1, 0)
        torch.mm(chunk_ND, weight_VD.t(), out=raw_NV)
        chunk = vocabulary.softmax_(logits_NV.copy_(raw_NV), targets_N[part])
        loss += chunk.loss
        if not any(needed):
            continue
        grad_NV = raw_NV.copy_(chunk.gradient_(logits_NV))
        if grad_hidden_ND is not None:
            torch.mm(grad_NV, weight_VD, out=grad_hidden_ND[part])
        if grad_weight_VD is not None:
            _add_product_(grad_weight_VD, grad_NV.t(), chunk_ND)
    return loss, grad_hidden_ND, grad_weight_VD


def _buffers(
    hidden_ND: Tensor, weight_VD: Tensor, chunk_tokens: int, wide: torch.dtype
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Which tokens, room for their logits as computed, and as softmax needs them: the same memory
    for each chunk (on a CPU fresh pages cost as much as the arithmetic), and where the dtypes are
    equal for both."""
    count = len(hidden_ND)
    shape = (min(chunk_tokens, count), len(weight_VD))
    raw_NV = weight_VD.new_empty(shape)
    logits_NV = None if wide is raw_NV.dtype else raw_NV.new_empty(shape, dtype=wide)
    for start in range(0, count, chunk_tokens):
        size = min(chunk_tokens, count - start)
        raw = raw_NV[:size]
        # One tensor and not two views of it, so that copying from one to the other costs nothing.
        yield slice(start, start + size), raw, raw if logits_NV is None else logits_NV[:size]


def _add_product_(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Adds left @ right to a total of the same or a wider dtype."""
    if total.dtype is left.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left @ right)
