"""Attention whose sequence is spread over the ranks of a group, in two ways that run anywhere.

The calls share one signature. Rotary positions are applied before, with the positions that
`sequence.split_indices` gives the rank. Shapes: B batch, H heads, K key-value heads (H is a
multiple of K), T the rank's positions, F head width; n ranks, so the sequence has n T positions.
"""

import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.utils._python_dispatch import _disable_current_modes

from .sequence import cut, exchange, gather_sequence, merge


def local_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    documents: Tensor | None = None,
    is_causal: bool = True,
    scale: float | None = None,
) -> Tensor:
    """Returns the attention of a whole sequence on one rank; what the others are equal to.

    Args:
        q: (B, H, T, F).
        k: (B, K, T, F).
        v: (B, K, T, F).
        documents: (B, T), int64 ids; a position sees those with its own id only. None: all one.
        is_causal: whether a position sees itself and what is before it only.
        scale: of the scores; None is 1 / sqrt(F).

    Returns:
        (B, H, T, F) in q's dtype.
    """
    return _attend(q, k, v, documents, documents, is_causal=is_causal, scale=scale)


def gather_kv_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    group: dist.ProcessGroup,
    documents: Tensor | None = None,
    is_causal: bool = True,
    scale: float | None = None,
) -> Tensor:
    """Collective: attention over all ranks' keys and values, gathered first (Llama 3, arXiv
    2407.21783, section 3.3.2).

    Works for any number of heads, and sends little where K is small. Each rank holds the keys and
    values of the whole sequence. Under a causal mask its two chunks of queries meet only the keys
    up to their own ends, which is the same work on all ranks.

    Args:
        q: (B, H, T, F), this rank's positions, as k, v and documents are; T is even.
        k: (B, K, T, F).
        v: (B, K, T, F).
        group: the ranks that share the sequence.
        documents: (B, T), int64 ids, or None on all ranks; see `local_attention`.
        is_causal: as in `local_attention`.
        scale: as in `local_attention`.

    Returns:
        (B, H, T, F) in q's dtype, this rank's positions.
    """
    k, v = gather_sequence(torch.cat((k, v), 1), group, 2).split((k.shape[1], v.shape[1]), 1)
    ids = None if documents is None else gather_sequence(documents, group, 1)
    if not is_causal:
        return _attend(q, k, v, documents, ids, is_causal=False, scale=scale)
    size, rank, length = dist.get_world_size(group), dist.get_rank(group), q.shape[2] // 2
    outputs = []
    for half, chunk in enumerate((rank, 2 * size - 1 - rank)):
        own, seen = slice(half * length, (half + 1) * length), slice((chunk + 1) * length)
        ids_q = None if documents is None else documents[:, own]
        ids_k = None if ids is None else ids[:, seen]
        parts = (q[:, :, own], k[:, :, seen], v[:, :, seen], ids_q, ids_k)
        outputs.append(_attend(*parts, is_causal=True, scale=scale))
    return torch.cat(outputs, 2)


def ulysses_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    group: dist.ProcessGroup,
    documents: Tensor | None = None,
    is_causal: bool = True,
    scale: float | None = None,
) -> Tensor:
    """Collective: attention over the whole sequence for H / n of the heads on each rank
    (DeepSpeed-Ulysses, arXiv 2309.14509).

    One all-to-all turns positions into heads, another one turns them back. Where K is no multiple
    of n, key-value heads are repeated until it is.

    Args, returns: those of `gather_kv_attention`.

    Raises:
        ValueError: H is no multiple of n.
    """
    size, heads = dist.get_world_size(group), q.shape[1]
    if heads % size:
        raise ValueError(
            f"model.num_heads: found {heads}, needed a multiple of parallel.context = {size}, for "
            "Ulysses gives each rank whole heads; set parallel.context_attention=gather or a "
            f"parallel.context that divides {heads}"
        )
    repeats = size // math.gcd(k.shape[1], size)
    if repeats > 1:
        k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    shares = [heads // size, k.shape[1] // size, k.shape[1] // size]
    by_owner = [x.unflatten(1, (size, -1)).movedim(1, 0) for x in (q, k, v)]
    whole = merge(exchange(torch.cat(by_owner, 2), group), 2)
    ids = None if documents is None else gather_sequence(documents, group, 1)
    output = local_attention(
        *whole.split(shares, 1), documents=ids, is_causal=is_causal, scale=scale
    )
    return exchange(cut(output, size, 2), group).movedim(0, 1).flatten(1, 2)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    ids_q: Tensor | None,
    ids_k: Tensor | None,
    *,
    is_causal: bool,
    scale: float | None,
) -> Tensor:
    """Attention of queries that, where it is causal, are the last ones of the keys' positions."""
    length_q, length_k = q.shape[2], k.shape[2]
    mask: Tensor | None = None
    if ids_q is not None and ids_k is not None:
        mask = ids_q.unsqueeze(2) == ids_k.unsqueeze(1)
        if is_causal:
            mask = mask.tril(length_k - length_q)
        mask = mask.unsqueeze(1)
    elif is_causal and length_q != length_k:
        mask = _last_of(length_q, length_k)
    is_square = is_causal and mask is None
    # Not said where it is not so, since it rules kernels out.
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=is_square, scale=scale, enable_gqa=grouped
    )


def _last_of(length_q: int, length_k: int) -> Tensor:
    """The causal mask of queries at the end of the keys, which torch has without its memory."""
    # A subclass of Tensor, which torch cannot make while a mode sees each operator, as selective
    # recomputation's does.
    with _disable_current_modes():
        return causal_lower_right(length_q, length_k)
