"""Projection and cross entropy in one: values, gradients, memory, and vocabularies over ranks."""

import math
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from support.world import run_world
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from keepstep.parallel.layers.cross_entropy import linear_cross_entropy


def example(
    *shape: int, width: int = 6, rows: int = 11, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden, weight and targets, about one in four of them ignored."""
    generator = torch.Generator().manual_seed(7)
    hidden = torch.randn(*shape, width, generator=generator, dtype=torch.float64)
    weight = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    targets = torch.randint(rows, shape, generator=generator)
    targets[torch.rand(shape, generator=generator) < 0.25] = -100
    return hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), targets


def reference(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    logits = (hidden @ weight.t()).flatten(0, -2)
    wide = torch.promote_types(logits.dtype, torch.float32)
    return F.cross_entropy(logits.to(wide), targets.flatten(), reduction="sum")


def differentiated(loss: Tensor, *inputs: Tensor) -> list[Tensor]:
    """The loss and the gradients of a third of it, as a sum over tokens is divided by them."""
    return [loss.detach(), *torch.autograd.grad(loss / 3, inputs)]


@pytest.mark.parametrize("chunk_tokens", [1, 4, 12, 1024])
@pytest.mark.parametrize("shape", [(12,), (3, 4), (1,), (0,), (2, 3, 2)], ids=str)
def test_loss_and_gradients_are_those_of_cross_entropy(
    shape: tuple[int, ...], chunk_tokens: int
) -> None:
    hidden, weight, targets = example(*shape)
    found = linear_cross_entropy(hidden, weight, targets, chunk_tokens=chunk_tokens)
    wanted = reference(hidden, weight, targets)
    assert found.shape == ()
    torch.testing.assert_close(
        differentiated(found, hidden, weight), differentiated(wanted, hidden, weight)
    )


def test_gradients_are_those_of_finite_differences() -> None:
    hidden, weight, targets = example(5, width=3, rows=4)
    assert torch.autograd.gradcheck(
        lambda *inputs: linear_cross_entropy(*inputs, targets, chunk_tokens=2), (hidden, weight)
    )


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)],
    ids=["fp32", "bf16", "fp16"],
)
def test_low_precision_is_as_close_to_the_truth_as_its_dtype(
    dtype: torch.dtype, tolerance: float
) -> None:
    hidden, weight, targets = example(64, width=16, rows=301, dtype=dtype)
    found = differentiated(
        linear_cross_entropy(hidden, weight, targets, chunk_tokens=24), hidden, weight
    )
    exact = [tensor.detach().double().requires_grad_() for tensor in (hidden, weight)]
    wanted = differentiated(reference(*exact, targets), *exact)
    assert [tensor.dtype for tensor in found] == [torch.float32, dtype, dtype]
    for one, other in zip(found, wanted, strict=True):
        assert float((one.double() - other).norm() / other.norm()) < tolerance


def test_a_sum_that_fp16_cannot_hold_comes_out_right_once_it_is_divided() -> None:
    hidden = torch.full((20_000, 1), 16.0, dtype=torch.float16)
    weight = torch.zeros(2, 1, dtype=torch.float16, requires_grad=True)
    targets = torch.zeros(20_000, dtype=torch.int64)
    (linear_cross_entropy(hidden, weight, targets) / 20_000).backward()
    assert weight.grad.tolist() == [[-8.0], [8.0]]


@pytest.mark.parametrize("needed", ["hidden", "weight"])
def test_only_gradients_that_are_asked_for_are_made(needed: str) -> None:
    hidden, weight, targets = example(9)
    inputs = {"hidden": hidden, "weight": weight}
    other = inputs["weight" if needed == "hidden" else "hidden"].requires_grad_(False)
    linear_cross_entropy(hidden, weight, targets).backward()
    wanted = torch.autograd.grad(reference(hidden, weight, targets), inputs[needed])[0]
    torch.testing.assert_close(inputs[needed].grad, wanted)
    assert other.grad is None


def test_without_gradients_only_the_loss_is_made() -> None:
    hidden, weight, targets = example(9)
    with torch.no_grad(), Largest() as made, FlopCounterMode(display=False) as work:
        found = linear_cross_entropy(hidden, weight, targets, chunk_tokens=2)
    torch.testing.assert_close(found, reference(hidden, weight, targets).detach())
    assert not found.requires_grad
    assert made.elements < hidden.numel()
    assert work.get_total_flops() == 2 * hidden.numel() * len(weight)


def test_a_kept_graph_gives_the_same_gradients_twice() -> None:
    hidden, weight, targets = example(9)
    loss = linear_cross_entropy(hidden, weight, targets)
    first = torch.autograd.grad(loss * 2, (hidden, weight), retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(loss * 2, (hidden, weight))))


def test_a_batch_of_ignored_targets_gives_zero_and_no_nan() -> None:
    hidden, weight, targets = example(9)
    hidden.data[4] = math.inf
    loss = linear_cross_entropy(hidden, weight, torch.full_like(targets, 3), ignore_index=3)
    assert [float(t.abs().sum()) for t in differentiated(loss, hidden, weight)] == [0, 0, 0]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["hidden", "weight"])
def test_logits_that_are_not_finite_give_a_loss_that_is_not(where: str, value: float) -> None:
    hidden, weight, _ = example(9)
    (hidden if where == "hidden" else weight).data[2, 0] = value
    targets = torch.zeros(9, dtype=torch.int64)
    assert not linear_cross_entropy(hidden, weight, targets, chunk_tokens=4).isfinite()


@pytest.mark.parametrize("target", [11, -1])
def test_a_target_outside_of_the_vocabulary_gives_nan(target: int) -> None:
    hidden, weight, targets = example(9)
    targets[5] = target
    assert linear_cross_entropy(hidden, weight, targets).isnan()


def test_a_chunk_of_no_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match=r"chunk_tokens: found 0, needed 1 or more; leave it out"):
        linear_cross_entropy(*example(3), chunk_tokens=0)


class Largest(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that any operation made anew."""

    elements = 0

    def __torch_dispatch__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        known = {storage_of(tensor) for tensor in tensors((args, kwargs))}
        sizes = [tensor.numel() for tensor in tensors(made) if storage_of(tensor) not in known]
        self.elements = max(self.elements, *sizes, 0)
        return made


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def storage_of(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_no_tensor_is_larger_than_a_chunk_of_logits_or_the_weight(dtype: torch.dtype) -> None:
    hidden, weight, targets = example(64, width=4, rows=50, dtype=dtype)
    with Largest() as made:
        linear_cross_entropy(hidden, weight, targets, chunk_tokens=8).backward()
    assert made.elements == 8 * 50
    with Largest() as whole:
        reference(hidden, weight, targets).backward()
    assert whole.elements == 64 * 50


def rows_of(rank: int, size: int, rows: int) -> slice:
    """What a DTensor's Shard(0) gives a rank: ceil(rows / size) to each while they last."""
    each = -(-rows // size)
    return slice(min(rank * each, rows), min((rank + 1) * each, rows))


@pytest.mark.parametrize(("size", "rows"), [(1, 7), (2, 301), (3, 10), (4, 5)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])
def test_a_vocabulary_over_ranks_gives_the_loss_and_gradients_of_one_rank(
    size: int, rows: int, dtype: torch.dtype
) -> None:
    def body(rank: int) -> tuple[list[Tensor], int]:
        hidden, weight, targets = example(3, 5, rows=rows, dtype=dtype)
        own = rows_of(rank, size, rows)
        local = weight.detach()[own].requires_grad_()
        loss = linear_cross_entropy(
            hidden, local, targets, chunk_tokens=4, group=dist.group.WORLD,
            vocabulary_start=own.start,
        )  # fmt: skip
        with torch.no_grad():
            again = linear_cross_entropy(
                hidden, local, targets, group=dist.group.WORLD, vocabulary_start=own.start
            )
        torch.testing.assert_close(again, loss.detach())
        return differentiated(loss, hidden, local), len(local)

    hidden, weight, targets = example(3, 5, rows=rows, dtype=dtype)
    loss, of_hidden, of_weight = differentiated(reference(hidden, weight, targets), hidden, weight)
    found, counts = zip(*run_world(size, body), strict=True)
    assert all(torch.equal(one[0], found[0][0]) for one in found)
    torch.testing.assert_close(found[0][0], loss)
    torch.testing.assert_close(sum(one[1] for one in found), of_hidden)
    torch.testing.assert_close(torch.cat([one[2] for one in found]), of_weight)
    assert sum(counts) == rows
    assert (min(counts) == 0) == (size == 4)


def test_one_rank_with_a_bad_row_is_heard_by_all_and_so_is_a_row_that_nobody_has() -> None:
    def body(rank: int) -> list[bool]:
        hidden, weight, targets = example(8, rows=9)
        spoilt = weight.detach()[rows_of(rank, 2, 9)].clone()
        if rank == 1:
            spoilt[0] = math.nan
        start = rows_of(rank, 2, 9).start
        of = {"group": dist.group.WORLD, "vocabulary_start": start}
        bad_row = linear_cross_entropy(hidden, spoilt, targets, **of)
        nobody = linear_cross_entropy(hidden, weight[:0], targets, **of)
        both = linear_cross_entropy(hidden, weight, targets, group=dist.group.WORLD)
        return [bool(loss.isnan()) for loss in (bad_row, nobody, both)]

    assert run_world(2, body) == [[True] * 3] * 2
