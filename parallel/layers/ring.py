"""torch's ring attention behind the signature of `attention`, on CUDA tensors.

torch owns the schedule and the merging of partial softmaxes; this file turns its two functions,
which know nothing of autograd, into one that can be differentiated. They are private to torch:
names and signatures are those of 2.13, and a torch without the names is refused.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, final

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

_SEQUENCE_DIM = 2


@final
@dataclass(frozen=True, slots=True)
class Kernel:
    """One attention of torch that also returns the logarithms of its sums, and its backward."""

    forward: Any
    backward: Any
    extras: tuple[str, ...]
    """What backward calls that which forward returns beside output and logarithms, in order."""


FLASH = Kernel(
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_backward.default,
    ("cum_seq_q", "cum_seq_k", "max_q", "max_k", "philox_seed", "philox_offset"),
)


def ring_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    group: dist.ProcessGroup,
    documents: Tensor | None = None,
    is_causal: bool = True,
    scale: float | None = None,
) -> Tensor:
    """Collective: attention while keys and values travel from rank to rank (Ring Attention, arXiv
    2310.01889; torch.distributed.tensor.experimental._context_parallel).

    No rank ever holds all keys and values. n - 1 exchanges in forward, 2 n - 1 in backward. Partial
    outputs are merged in fp32.

    Args:
        q: (B, H, T, F) on CUDA, in float16 or bfloat16, F a multiple of 8; this rank's positions.
        k: (B, K, T, F), each head repeated H / K times before it travels.
        v: (B, K, T, F).
        group: the ranks that share the sequence.
        documents: None; torch's ring has no mask but the causal one.
        is_causal: as in `attention.local_attention`.
        scale: as in `attention.local_attention`.

    Returns:
        (B, H, T, F) in q's dtype, this rank's positions.

    Raises:
        ValueError: the tensors are not as said above, there are documents, or this torch has no
            ring attention under the names that are known.
    """
    _check(q, documents)
    return attend(q, k, v, group=group, is_causal=is_causal, scale=scale, kernel=FLASH)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    group: dist.ProcessGroup,
    is_causal: bool,
    scale: float | None,
    kernel: Kernel,
) -> Tensor:
    """Collective: `ring_attention` with any kernel, on any device that has it; nothing checked."""
    repeats = q.shape[1] // k.shape[1]
    if repeats > 1:
        k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    output: Tensor = _Ring.apply(q, k, v, group, is_causal, scale, kernel)
    return output


def _check(q: Tensor, documents: Tensor | None) -> None:
    """Raises ValueError for what torch's ring attention would fail on later, or get wrong."""
    thing, remedy = "parallel.context_attention = ring", "set parallel.context_attention"
    if q.device.type != "cuda":
        raise ValueError(
            f"{thing}: found a tensor on {q.device.type}, needed one on cuda, for torch's ring "
            f"attention needs CUDA; {remedy}=gather or ulysses, which work here"
        )
    if documents is not None:
        raise ValueError(
            f"{thing}: found documents, needed none, for torch's ring attention knows the causal "
            f"mask only; {remedy}=gather or ulysses, which keep documents apart"
        )
    if q.dtype not in (torch.float16, torch.bfloat16):
        raise ValueError(
            f"{thing}: found {q.dtype}, needed torch.bfloat16 or torch.float16, for it runs on "
            f"flash attention; set precision=bf16, or {remedy}=gather or ulysses"
        )
    if q.shape[-1] % 8:
        raise ValueError(
            f"{thing}: found a head width of {q.shape[-1]}, needed a multiple of 8, for it runs on "
            f"flash attention; change model.num_heads, or {remedy}=gather or ulysses"
        )


@final
class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        group: dist.ProcessGroup,
        is_causal: bool,
        scale: float | None,
        kernel: Kernel,
    ) -> Tensor:
        with _ring(is_causal) as torch_ring:
            output, logarithms, *extras = torch_ring._templated_ring_attention(
                group, _SEQUENCE_DIM, kernel.forward, query=q, key=k, value=v,
                is_causal=is_causal, dropout_p=0.0, scale=scale,
            )  # fmt: skip
        ctx.save_for_backward(q, k, v, output, logarithms)
        # A debug mask comes last, and backward has no name for it.
        ctx.extras = dict(zip(kernel.extras, extras, strict=False))
        ctx.settings = (group, is_causal, scale, kernel)
        return output  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, output, logarithms = ctx.saved_tensors
        group, is_causal, scale, kernel = ctx.settings
        with _ring(is_causal) as torch_ring:
            gradients = torch_ring._templated_ring_attention_backward(
                group, _SEQUENCE_DIM, kernel.backward, grad_out=grad_output.contiguous(),
                grad_out_name="grad_out", query=q, key=k, value=v, out=output,
                logsumexp=logarithms, is_causal=is_causal, dropout_p=0.0, scale=scale,
                **ctx.extras,
            )  # fmt: skip
        return (*gradients[:3], None, None, None, None)


@contextmanager
def _ring(is_causal: bool) -> Iterator[ModuleType]:
    """torch's module, its options set for one call and put back.

    They are global to the process. The head-tail split is told only where it matters, for torch
    refuses it without a causal mask; keys travel by all-to-all, for by all-gather, which is torch's
    default, a rank would hold all of them.
    """
    torch_ring = _torch_ring()
    options = torch_ring._cp_options
    before = (options.enable_load_balance, options.rotate_method)
    options.enable_load_balance = is_causal
    options.rotate_method = torch_ring._RotateMethod.ALL_TO_ALL
    try:
        yield torch_ring
    finally:
        options.enable_load_balance, options.rotate_method = before


def _torch_ring() -> ModuleType:
    # Not at the top: it imports torch's compiler, which takes most of a second.
    name = "torch.distributed.tensor.experimental._context_parallel._attention"
    try:
        module = importlib.import_module(name)
        names = ("_templated_ring_attention", "_templated_ring_attention_backward")
        absent = [n for n in (*names, "_cp_options", "_RotateMethod") if not hasattr(module, n)]
    except ModuleNotFoundError:
        absent = [name]
    if absent:
        raise ValueError(
            f"parallel.context_attention = ring: found torch {torch.__version__} without "
            f"{absent[0]}, needed a torch that has it, as 2.13 does; set "
            "parallel.context_attention=gather or ulysses"
        )
    return module
