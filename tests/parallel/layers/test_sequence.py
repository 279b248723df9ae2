"""The split of a sequence over ranks, and the way back."""

import re

import pytest
import torch
import torch.distributed as dist
from support.world import run_world
from torch import Tensor

from keepstep.parallel.layers.sequence import cut, exchange, gather_sequence, merge, split_indices


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_split_is_a_partition_with_the_same_causal_work_for_all(size: int) -> None:
    parts = [split_indices(48, rank, size) for rank in range(size)]
    assert sorted(torch.cat(parts).tolist()) == list(range(48))
    assert {part.dtype for part in parts} == {torch.int64}
    assert len({(len(part), int((part + 1).sum())) for part in parts}) == 1


def test_a_rank_holds_one_chunk_from_the_head_and_one_from_the_tail() -> None:
    assert split_indices(8, 0, 2).tolist() == [0, 1, 6, 7]
    assert split_indices(8, 1, 2).tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize(("length", "nearest"), [(50, 48), (53, 56), (1, 8), (0, 8)])
def test_a_length_that_cannot_be_split_is_refused_with_one_that_can(
    length: int, nearest: int
) -> None:
    sentence = (
        f"data.sequence_length: found {length}, needed a multiple of 8, which is 2 x "
        f"parallel.context, for each rank takes two chunks; set data.sequence_length={nearest}"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        split_indices(length, 0, 4)


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_cut_gives_each_rank_its_positions_and_merge_takes_them_back(dim: int) -> None:
    whole = torch.randn(2, 3, 5).repeat_interleave(12, dim)
    length = whole.shape[dim]
    parts = cut(whole, 3, dim)
    for rank in range(3):
        assert torch.equal(parts[rank], whole.index_select(dim, split_indices(length, rank, 3)))
    assert torch.equal(merge(parts, dim), whole)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("dim", [1, -2])
def test_gathering_restores_the_order_and_sums_what_ranks_say_of_a_part(
    size: int, dim: int
) -> None:
    whole = torch.randn(2, 12, 3, dtype=torch.float64)
    weights = torch.randn(size, 2, 12, 3, dtype=torch.float64)

    def body(rank: int) -> tuple[Tensor, Tensor]:
        own = whole[:, split_indices(12, rank, size)].requires_grad_()
        gathered = gather_sequence(own, dist.group.WORLD, dim)
        (gathered * weights[rank]).sum().backward()
        return gathered.detach(), own.grad

    for rank, (gathered, grad) in enumerate(run_world(size, body)):
        assert torch.equal(gathered, whole)
        torch.testing.assert_close(grad, weights.sum(0)[:, split_indices(12, rank, size)])


def test_bfloat16_gradients_are_summed_in_more_than_bfloat16() -> None:
    def body(rank: int) -> float:
        own = torch.zeros(2, dtype=torch.bfloat16, requires_grad=True)
        # 256 + 1 is 256 in bfloat16, and so would the sum of all four be.
        share = 256.0 if rank == 0 else 1.0
        (gather_sequence(own, dist.group.WORLD, 0) * share).sum().backward()
        return own.grad[0].item()

    assert run_world(4, body) == [torch.tensor(259.0).bfloat16().item()] * 4 != [256.0] * 4


def test_an_exchange_transposes_ranks_and_so_do_its_gradients() -> None:
    def body(rank: int) -> tuple[list[float], list[float]]:
        sent = torch.tensor([10.0 * rank, 10.0 * rank + 1, 10.0 * rank + 2], requires_grad=True)
        received = exchange(sent, dist.group.WORLD)
        (received * torch.tensor([100.0, 200.0, 300.0]) * (rank + 1)).sum().backward()
        return received.tolist(), sent.grad.tolist()

    for rank, (received, grad) in enumerate(run_world(3, body)):
        assert received == [rank, 10.0 + rank, 20.0 + rank]
        assert grad == [100.0 * (rank + 1) * factor for factor in (1, 2, 3)]
