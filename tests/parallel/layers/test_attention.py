"""Attention over ranks: outputs and gradients are those of one rank that has the whole sequence."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from support.world import run_world
from torch import Tensor

from keepstep.parallel.layers import ring
from keepstep.parallel.layers.attention import (
    gather_kv_attention,
    local_attention,
    ulysses_attention,
)
from keepstep.parallel.layers.ring import ring_attention
from keepstep.parallel.layers.sequence import split_indices

LENGTH = 24
# torch's ring attention with the CPU's kernel in place of CUDA's: the same two functions of torch.
ON_CPU = ring.Kernel(
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default,
    (),
)
SPREAD = {"gather": gather_kv_attention, "ulysses": ulysses_attention}


def example(kv_heads: int, dtype: torch.dtype, heads: int = 4) -> list[Tensor]:
    """Queries, keys, values, and a gradient of the output."""
    generator = torch.Generator().manual_seed(5)
    counts = (heads, kv_heads, kv_heads, heads)
    return [
        torch.randn(2, count, LENGTH, 8, generator=generator, dtype=torch.float64).to(dtype)
        for count in counts
    ]


def documents_of(kind: str) -> Tensor | None:
    """Documents whose ends fall inside chunks, other ones in each sample; ids come back later."""
    if kind == "none":
        return None
    ids = torch.tensor([[0] * 7 + [1] * 4 + [0] * 2 + [5] * 11, [3] * 1 + [2] * 23])
    assert ids.shape == (2, LENGTH)
    return ids


def differentiated(
    attention: Callable[..., Tensor], tensors: list[Tensor], **options: Any
) -> list[Tensor]:
    """The output, and the gradients of queries, keys and values."""
    q, k, v = (tensor.detach().clone().requires_grad_() for tensor in tensors[:3])
    output = attention(q, k, v, **options)
    return [output.detach(), *torch.autograd.grad(output, (q, k, v), tensors[3])]


def over_ranks(
    size: int, attention: Callable[..., Tensor], tensors: list[Tensor], **options: Any
) -> list[Tensor]:
    """What `differentiated` returns, each rank having its positions, put together again."""
    ids = options.pop("documents", None)

    def body(rank: int) -> list[Tensor]:
        own = split_indices(LENGTH, rank, size)
        if ids is not None:
            options["documents"] = ids[:, own]
        parts = [tensor[:, :, own] for tensor in tensors]
        return differentiated(attention, parts, group=dist.group.WORLD, **options)

    order = torch.cat([split_indices(LENGTH, rank, size) for rank in range(size)]).argsort()
    return [torch.cat(parts, 2)[:, :, order] for parts in zip(*run_world(size, body), strict=True)]


def explicit(q: Tensor, k: Tensor, v: Tensor, ids: Tensor | None, is_causal: bool) -> Tensor:
    """Attention as the formula has it, one pair of positions after the other."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
    for sample in range(2):
        for i in range(LENGTH):
            for j in range(LENGTH):
                apart = ids is not None and ids[sample, i] != ids[sample, j]
                if apart or (is_causal and j > i):
                    scores[sample, :, i, j] = -torch.inf
    return scores.softmax(-1) @ v


@pytest.mark.parametrize("is_causal", [True, False], ids=["causal", "full"])
@pytest.mark.parametrize("kind", ["none", "documents"])
def test_on_one_rank_attention_is_the_formula(kind: str, is_causal: bool) -> None:
    q, k, v, _ = example(2, torch.float64)
    ids = documents_of(kind)
    found = local_attention(q, k, v, documents=ids, is_causal=is_causal)
    torch.testing.assert_close(found, explicit(q, k, v, ids, is_causal))


def test_the_scale_is_that_of_the_scores() -> None:
    q, k, v, _ = example(4, torch.float64)
    found = local_attention(q, k, v, scale=0.7)
    torch.testing.assert_close(found, local_attention(q * 0.7 * 8**0.5, k, v))


@pytest.mark.slow(
    but=[
        "gather-none-2-2",
        "ulysses-documents-2-2",
        "gather-documents-2-4",
        "ulysses-none-2-4",
        "gather-none-1-1",
    ]
)
@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("kind", ["none", "documents"])
@pytest.mark.parametrize("name", list(SPREAD))
def test_over_ranks_outputs_and_gradients_are_those_of_one(
    name: str, kind: str, kv_heads: int, size: int
) -> None:
    tensors, ids = example(kv_heads, torch.float64), documents_of(kind)
    found = over_ranks(size, SPREAD[name], tensors, documents=ids)
    torch.testing.assert_close(found, differentiated(local_attention, tensors, documents=ids))


@pytest.mark.parametrize("kind", ["none", "documents"])
@pytest.mark.parametrize("name", list(SPREAD))
def test_without_a_causal_mask_and_with_a_scale_they_are_too(name: str, kind: str) -> None:
    tensors, options = example(2, torch.float64), {"is_causal": False, "scale": 0.7}
    found = over_ranks(2, SPREAD[name], tensors, documents=documents_of(kind), **options)
    wanted = differentiated(local_attention, tensors, documents=documents_of(kind), **options)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)], ids=["fp32", "bf16"]
)
@pytest.mark.parametrize("name", list(SPREAD))
def test_low_precision_is_as_close_to_the_truth_as_its_dtype(
    name: str, dtype: torch.dtype, tolerance: float
) -> None:
    tensors, exact = example(2, dtype), [x.double() for x in example(2, dtype)]
    for kind in ("none", "documents"):
        found = over_ranks(4, SPREAD[name], tensors, documents=documents_of(kind))
        wanted = differentiated(local_attention, exact, documents=documents_of(kind))
        for one, other in zip(found, wanted, strict=True):
            assert one.dtype is dtype
            assert float((one.double() - other).norm() / other.norm()) < tolerance


def test_ulysses_repeats_heads_up_to_a_multiple_where_there_are_more_than_ranks() -> None:
    tensors = example(3, torch.float64, heads=6)
    found = over_ranks(2, ulysses_attention, tensors)
    torch.testing.assert_close(found, differentiated(local_attention, tensors))


def test_ulysses_refuses_heads_that_ranks_cannot_share() -> None:
    def body(rank: int) -> str:
        q, k, v, _ = example(3, torch.float32, heads=3)
        with pytest.raises(ValueError, match="num_heads") as caught:
            ulysses_attention(q, k, v, group=dist.group.WORLD)
        return str(caught.value)

    sentence = (
        "model.num_heads: found 3, needed a multiple of parallel.context = 2, for Ulysses gives "
        "each rank whole heads; set parallel.context_attention=gather or a parallel.context that "
        "divides 3"
    )
    assert run_world(2, body) == [sentence] * 2


def test_gathered_keys_that_a_chunk_may_not_see_are_not_computed_with() -> None:
    def body(rank: int) -> list[bool]:
        own = split_indices(LENGTH, rank, 2)
        q, k, v = (x[:, :, own] for x in example(2, torch.float32)[:3])
        for last_chunk in (k, v):
            last_chunk[:, :, own >= LENGTH * 3 // 4] = torch.nan
        # A mask would not help: zero times NaN is NaN.
        output = gather_kv_attention(q, k, v, group=dist.group.WORLD)
        return [bool(half.isfinite().all()) for half in output.chunk(2, 2)]

    assert run_world(2, body) == [[True, False], [True, True]]


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("kv_heads", [4, 1])
@pytest.mark.parametrize("is_causal", [True, False], ids=["causal", "full"])
def test_the_ring_with_the_kernel_of_the_cpu_is_that_of_one(
    is_causal: bool, kv_heads: int, size: int
) -> None:
    tensors = example(kv_heads, torch.float32)
    options = {"is_causal": is_causal, "scale": 0.3}
    found = over_ranks(size, ring.attend, tensors, kernel=ON_CPU, **options)
    wanted = differentiated(local_attention, tensors, **options)
    for one, other in zip(found, wanted, strict=True):
        assert float((one - other).norm() / other.norm()) < 1e-5


def test_the_ring_leaves_the_options_of_torch_as_it_found_them() -> None:
    from torch.distributed.tensor.experimental._context_parallel import _attention

    def body(rank: int) -> tuple[str, str]:
        before = repr(_attention._cp_options)
        part = example(4, torch.float32)
        options = {"is_causal": False, "scale": None, "kernel": ON_CPU}
        differentiated(ring.attend, part, group=dist.group.WORLD, **options)
        return before, repr(_attention._cp_options)

    assert all(before == after for before, after in run_world(2, body))


class Elsewhere:
    """What the ring's check asks of a tensor, for a device that is not here."""

    def __init__(self, device: str, dtype: torch.dtype, width: int) -> None:
        self.device, self.dtype, self.shape = torch.device(device), dtype, (2, 4, LENGTH, width)


@pytest.mark.parametrize(
    ("found", "documents", "sentence"),
    [
        (("cpu", torch.bfloat16, 8), None, "found a tensor on cpu, needed one on cuda, for torch's "
         "ring attention needs CUDA; set parallel.context_attention=gather or ulysses"),
        (("cuda", torch.bfloat16, 8), torch.zeros(2, LENGTH), "found documents, needed none"),
        (("cuda", torch.float32, 8), None, r"found torch\.float32, needed torch\.bfloat16 or"),
        (("cuda", torch.bfloat16, 12), None, "found a head width of 12, needed a multiple of 8"),
    ],
)  # fmt: skip
def test_the_ring_refuses_what_it_cannot_do(
    found: tuple[str, torch.dtype, int], documents: Tensor | None, sentence: str
) -> None:
    q: Any = Elsewhere(*found)
    group: Any = None
    with pytest.raises(ValueError, match=f"^parallel.context_attention = ring: {sentence}"):
        ring_attention(q, q, q, group=group, documents=documents)


def test_the_names_that_cuda_needs_are_those_of_torchs_operators() -> None:
    made = [result.name for result in ring.FLASH.forward._schema.returns][2:]
    taken = [argument.name for argument in ring.FLASH.backward._schema.arguments]
    given = ("grad_out", "query", "key", "value", "out", "logsumexp", "dropout_p", "is_causal")
    assert sorted(taken) == sorted((*given, *ring.FLASH.extras, "scale"))
    assert [name for name in taken if name in ring.FLASH.extras] == list(ring.FLASH.extras)
    assert made[:4] == list(ring.FLASH.extras[:4])
