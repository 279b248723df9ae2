"""Sums, maxima, votes and bytes over a group."""

import pytest
import torch
import torch.distributed as dist
from support.world import run_world

from keepstep.parallel import Exchange, max_, sum_


def test_without_a_group_sums_and_maxima_return_the_tensor_itself() -> None:
    tensor = torch.tensor([1, 2])
    assert sum_(tensor, None) is tensor
    assert max_(tensor, None) is tensor
    assert tensor.tolist() == [1, 2]


def test_sums_and_maxima_are_taken_in_place_over_all_ranks() -> None:
    def body(rank: int) -> tuple[list[int], list[int]]:
        total, most = torch.tensor([rank, 1]), torch.tensor([rank, -rank])
        assert sum_(total, dist.group.WORLD) is total
        assert max_(most, dist.group.WORLD) is most
        return total.tolist(), most.tolist()

    assert run_world(3, body) == [([3, 3], [2, 0])] * 3


@pytest.mark.parametrize(
    "payloads",
    [
        [b"", b"", b""],
        [b"", b"\x00", b"\x00\x00"],
        [b"one", b"", bytes(range(256)) * 300],
    ],
    ids=["all empty", "zeros of unequal length", "long"],
)
def test_every_rank_gets_all_payloads_in_rank_order(payloads: list[bytes]) -> None:
    def body(rank: int) -> list[bytes]:
        exchange = Exchange(dist.new_group(backend="gloo"))
        assert (exchange.rank, exchange.size) == (rank, 3)
        return exchange.gather_bytes(payloads[rank])

    assert run_world(3, body) == [payloads] * 3


def test_one_no_is_a_no_everywhere() -> None:
    def body(rank: int) -> list[bool]:
        exchange = Exchange(dist.group.WORLD)
        return [exchange.all_agree(rank not in against) for against in ((), (1,), (0, 1))]

    assert run_world(2, body) == [[True, False, False]] * 2


def test_a_world_of_one_agrees_with_itself() -> None:
    def body(rank: int) -> tuple[list[bytes], bool, bool]:
        exchange = Exchange(dist.group.WORLD)
        return exchange.gather_bytes(b"me"), exchange.all_agree(True), exchange.all_agree(False)

    assert run_world(1, body) == [([b"me"], True, False)]
