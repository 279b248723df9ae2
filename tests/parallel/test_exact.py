"""Grids: gradients whose sums have the same bits in any order, over any number of ranks."""

import itertools
import math
import random

import pytest
import torch
from support.world import run_world
from torch import Tensor, nn

from keepstep.parallel import (
    Degrees,
    Exchange,
    Grid,
    ParallelConfig,
    Plan,
    Policy,
    PrecisionConfig,
    Topology,
    assemble,
    set_last_microbatch,
)
from keepstep.parallel.exact import _bits, _halves, _integer_squares, _whole

CPU = torch.device("cpu")
LEAVES = 12


class Widths(nn.Module):
    """Its weight's gradient is the input, so that a test says what each micro-batch gives."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(7, 5))

    def forward(self, given: Tensor) -> Tensor:
        return (self.weight * given).sum()


class World:
    """A module over the ranks of a world, and its grid."""

    def __init__(self, size: int, *, replicate: int = 1) -> None:
        degrees = Degrees.resolve(ParallelConfig(replicate=replicate), size)
        topology = Topology.create(degrees, "cpu")
        self.module = assemble(
            Widths,
            plan=Plan(),
            topology=topology,
            policy=Policy.of(PrecisionConfig()),
            device=CPU,
            seed=0,
        )
        (self.weight,) = self.module.parameters()
        self.grid = Grid(self.module, Exchange(topology.control), addends=LEAVES)

    def backward(self, gradients: list[Tensor]) -> bool:
        """Whether the sum is one to go on with."""
        self.weight.grad = None
        for number, gradient in enumerate(gradients):
            set_last_microbatch(self.module, number == len(gradients) - 1)
            self.module(gradient).backward()
        return self.grid.settle()

    def step(self, gradients: list[Tensor]) -> Tensor:
        """The whole sum of all ranks' gradients."""
        if not self.backward(gradients):
            assert self.backward(gradients)
        assert self.weight.grad is not None
        return self.weight.grad.full_tensor().clone()


def leaves(seed: int, spread: float = 8.0) -> list[Tensor]:
    """Gradients whose elements are of very different sizes, so that a plain sum shows its order."""
    made = torch.Generator().manual_seed(seed)
    exponents = torch.randn(LEAVES, 7, 5, generator=made) * spread / 2 - 9
    return list(torch.randn(LEAVES, 7, 5, generator=made) * exponents.exp2())


def shared(size: int, replicate: int = 1, *, seed: int, order: int = 0) -> tuple[Tensor, int]:
    """The sum that `size` ranks come to, and its squares."""
    every = leaves(seed)
    random.Random(order).shuffle(every)

    def body(rank: int) -> tuple[Tensor, list[float]]:
        world, count = World(size, replicate=replicate), LEAVES // size
        found = world.step(every[rank * count : (rank + 1) * count])
        return found, world.grid.squares()

    answers = run_world(size, body)
    assert all(torch.equal(found, answers[0][0]) for found, _ in answers)
    return answers[0][0], _whole(*map(sum, zip(*(squares for _, squares in answers), strict=True)))


@pytest.mark.parametrize("seed", range(3))
def test_no_order_and_no_number_of_ranks_shows_in_a_sum(seed: int) -> None:
    wanted = shared(1, seed=seed)
    plain = {
        tuple(torch.stack(leaves(seed))[torch.randperm(LEAVES)].sum(0).flatten().tolist())
        for _ in range(5)
    }
    assert len(plain) > 1  # else the test would show nothing
    for order, (size, replicate) in enumerate([(1, 1), (2, 1), (3, 1), (4, 2), (2, 2)]):
        found = shared(size, replicate, seed=seed, order=order)
        assert torch.equal(found[0], wanted[0]), size
        assert found[1] == wanted[1], size


def test_a_sum_is_near_the_true_one() -> None:
    def body(rank: int) -> float:
        every = leaves(5, spread=3.0)
        true = torch.stack(every).double().sum(0)
        return float((World(1).step(every).double() - true).norm() / true.norm())

    assert run_world(1, body)[0] < 2e-5


def test_a_gradient_beyond_its_bound_asks_for_the_step_again_and_then_counts() -> None:
    def body(rank: int) -> None:
        world, small = World(1), [torch.full((7, 5), 1e-3)] * LEAVES
        assert not world.backward(small)  # nothing is known of it yet
        assert world.backward(small)
        world.grid.end_step()
        assert world.backward([gradient * 7 for gradient in small])  # within the headroom
        world.grid.end_step()
        large = [*small[1:], torch.full((7, 5), 1e3)]
        assert not world.backward(large)
        assert world.backward(large)
        total = world.step(large)
        assert float(total[0, 0]) == pytest.approx(1e3 + 11e-3, rel=1e-4)

    run_world(1, body)


def test_bounds_come_down_by_halves_and_outlive_a_restart() -> None:
    def body(rank: int) -> None:
        world = World(1)
        world.step([torch.full((7, 5), 1.0)] * LEAVES)
        world.grid.end_step()
        assert world.grid.state_dict() == {"weight": 2}
        for wanted in (1, 0, -1):
            world.step([torch.full((7, 5), 1e-6)] * LEAVES)
            world.grid.end_step()
            assert world.grid.state_dict() == {"weight": wanted}
        other = World(1)
        other.grid.load_state_dict({"weight": 0})
        assert other.backward([torch.full((7, 5), 1.0)] * LEAVES)

    run_world(1, body)


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_what_is_not_finite_is_said_and_moves_no_bound(odd: float) -> None:
    def body(rank: int) -> None:
        world = World(2)
        world.step([torch.ones(7, 5)])
        world.grid.end_step()
        before = world.grid.state_dict()
        assert world.backward([torch.full((7, 5), odd if rank else 1.0)])
        assert not world.grid.is_finite
        world.grid.end_step()
        assert world.grid.state_dict() == before
        assert sum(world.grid.squares()) == 0

    run_world(2, body)


def test_squares_add_up_however_the_elements_are_cut() -> None:
    values = torch.randn(10_000, generator=torch.Generator().manual_seed(1))
    unit, bits = 2.0 ** math.ceil(math.log2(float(values.abs().max()))), _bits(len(values))
    wanted = _integer_squares(values, unit, bits)
    for cut in (1, 3, 17, 5000):
        parts = values.split(cut)
        assert sum(_integer_squares(part, unit, bits) for part in parts) == wanted
    norm = math.sqrt(math.ldexp(wanted, -bits)) * unit
    assert norm == pytest.approx(float(values.double().norm()), rel=1e-12)
    assert wanted < 2**62


def test_halves_add_up_over_ranks() -> None:
    totals = [0, 1, 2**31 - 1, 2**61 - 1, 123_456_789_012_345]
    for pair in itertools.product(totals, repeat=2):
        highs, lows = zip(*map(_halves, pair), strict=True)
        assert _whole(sum(highs), sum(lows)) == sum(pair)
