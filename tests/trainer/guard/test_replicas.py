"""Copies of parameters are equal, or the odd ones out are named with what they hold wrongly."""

import itertools
from collections.abc import Sequence

import pytest
import torch
from support.world import run_world
from torch import nn

from keepstep.parallel import (
    Degrees,
    ParallelConfig,
    Plan,
    Policy,
    PrecisionConfig,
    Topology,
    assemble,
)
from keepstep.trainer.guard.prints import print_of, read, sum_of_bits
from keepstep.trainer.guard.replicas import compare, odd_ones
from keepstep.trainer.recovery.chaos import flip_bit


@pytest.mark.parametrize(
    ("copies", "found", "wanted"),
    [
        ([[0, 1, 2]], "aaa", []),
        ([[0, 1, 2]], "aba", [1]),
        ([[0, 1, 2]], "abc", [0, 1, 2]),
        ([[0, 1]], "ab", [0, 1]),
        ([[0, 2], [1, 3]], "abab", []),
        ([[0, 2], [1, 3]], "abac", [1, 3]),
        ([[0, 1, 2, 3]], "aabb", [0, 1, 2, 3]),
        ([[0, 1, 2, 3, 4]], "aaabc", [3, 4]),
        ([[0], [1]], "ab", []),
    ],
)
def test_the_odd_ones_are_those_outside_a_majority(
    copies: Sequence[Sequence[int]], found: str, wanted: list[int]
) -> None:
    assert odd_ones(copies, [letter.encode() for letter in found]) == wanted


def prints(tensor: torch.Tensor) -> list[int]:
    """As on the CPU, and as on a device."""
    return [int(print_of(tensor)), int(sum_of_bits(tensor.contiguous().view(-1)))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64])
def test_every_bit_counts_in_a_print(dtype: torch.dtype) -> None:
    tensor = torch.arange(24).to(dtype).view(4, 6)[:, 1:4]
    before = prints(tensor)
    assert before == prints(tensor.clone())
    size = 12 * tensor.element_size()
    for place, bit in itertools.product((0, 7, size - 1), (0, 3, 7)):
        changed = tensor.contiguous().clone()
        changed.view(torch.uint8).view(-1)[place] ^= 1 << bit
        assert all(one != other for one, other in zip(prints(changed), before, strict=True))


def test_an_empty_part_has_a_print() -> None:
    empty = torch.empty(0, 3)
    assert prints(empty) == prints(empty.clone())
    assert read({}) == {}


def layout(size: int, replicate: int) -> tuple[Topology, nn.Module]:
    topology = Topology.create(Degrees.resolve(ParallelConfig(replicate=replicate), size), "cpu")
    module = assemble(
        lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)),
        plan=Plan(),
        topology=topology,
        policy=Policy.of(PrecisionConfig()),
        device=torch.device("cpu"),
        seed=0,
    )
    return topology, module


@pytest.mark.parametrize(
    ("size", "replicate", "flipped", "wanted"),
    [(3, 3, 1, [1]), (4, 2, 3, [1, 3]), (4, 2, None, []), (2, 1, 1, [])],
)
def test_a_flipped_bit_is_found_on_the_ranks_that_copies_prove_wrong(
    size: int, replicate: int, flipped: int | None, wanted: list[int]
) -> None:
    def body(rank: int) -> dict[int, list[str]]:
        topology, module = layout(size, replicate)
        if rank == flipped:
            flip_bit(module.parameters())
        return compare(dict(module.named_parameters()), topology)

    for odd in run_world(size, body):
        assert odd == {rank: ["0.weight"] for rank in wanted}
