"""A micro-batch computed twice: nothing differs, unless a rank computes wrongly once, and it is
told from those that share its gradients. What was there before is there after."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.world import run_world
from torch import Tensor, nn

from keepstep.data import Window
from keepstep.parallel import (
    Degrees,
    ParallelConfig,
    Plan,
    Policy,
    PrecisionConfig,
    Topology,
    assemble,
)
from keepstep.trainer.forward_backward import Divisor, Flat
from keepstep.trainer.guard.findings import Odd
from keepstep.trainer.guard.replay import Replayed, chosen, replay
from keepstep.trainer.seeds import seed_of

CPU = torch.device("cpu")


class Model(nn.Module):
    """With a dropout, and a buffer that every forward moves."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(8, 2)

    def forward(self, x_BF: Tensor) -> Tensor:
        out: Tensor = self.last(self.drop(torch.tanh(self.norm(self.first(x_BF)))))
        return out


Loss = Callable[[nn.Module, dict[str, Tensor]], Tensor]


def plain(module: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    summed: Tensor = module(batch["x"]).square().sum()
    return summed


def window(rank: int) -> Window:
    generator = torch.Generator().manual_seed(rank)
    batches = [{"x": torch.randn(4, 6, generator=generator)} for _ in range(3)]
    return Window(0, batches, range(3 * rank, 3 * rank + 3))


def runner(size: int, replicate: int, loss: Loss) -> Flat:
    topology = Topology.create(Degrees.resolve(ParallelConfig(replicate=replicate), size), "cpu")
    module = assemble(
        Model,
        plan=Plan(),
        topology=topology,
        policy=Policy.of(PrecisionConfig()),
        device=CPU,
        seed=0,
    )
    return Flat(module, loss, CPU)


def replayed(flat: Flat, rank: int) -> Replayed:
    some, divisor = chosen(window(rank), flat, seed=0, step=3), Divisor(lambda: 4)
    return replay(flat.module, lambda: flat.run(some, divisor, seed_of(0, 3, 0)))


def on_ranks(size: int, body: Callable[[int], Any]) -> list[Any]:
    return run_world(size, body)


@pytest.mark.parametrize(("size", "replicate"), [(1, 1), (2, 1), (2, 2)])
def test_the_same_twice_differs_in_nothing(size: int, replicate: int) -> None:
    found = on_ranks(size, lambda rank: replayed(runner(size, replicate, plain), rank).odd)
    assert found == [Odd.none] * size


def test_the_step_after_a_replay_is_the_step_without_one() -> None:
    def body(rank: int) -> None:
        results = []
        for has_replay in (False, True):
            flat = runner(2, 1, plain)
            if has_replay:
                replayed(flat, rank)
                assert all(p.grad is None for p in flat.module.parameters())
            part = flat.run(window(rank), Divisor(lambda: 12), seed_of(0, 3, 0))
            gradients = [p.grad.to_local() for p in flat.module.parameters()]  # type: ignore
            results.append([part, *gradients, *flat.module.buffers(), torch.get_rng_state()])
        assert all(map(torch.equal, *results))

    on_ranks(2, body)


class Once:
    """A loss that is another one at one call."""

    def __init__(self, call: int, change: Callable[[Tensor], Tensor]) -> None:
        self.left, self.change = call, change

    def __call__(self, module: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        self.left -= 1
        summed = plain(module, batch)
        return self.change(summed) if self.left == 0 else summed


class Scaled(torch.autograd.Function):
    """The same forward, and a gradient that is a little larger."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient * (1 + 1e-6)


@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize(
    ("change", "has_loss"), [(lambda x: x * (1 + 1e-6), True), (Scaled.apply, False)]
)
def test_the_rank_that_computes_wrongly_is_told_from_those_that_share_its_gradient(
    call: int, change: Callable[[Tensor], Tensor], has_loss: bool
) -> None:
    def body(rank: int) -> Replayed:
        loss: Loss = Once(call, change) if rank == 1 else plain
        return replayed(runner(2, 2, loss), rank)

    other, wrong = on_ranks(2, body)
    assert (other.odd, wrong.odd) == (Odd.suspect, Odd.corrupt)
    assert ("loss" in wrong.own) == has_loss
    assert {"first.weight", "last.bias"} <= set(wrong.own)
    assert other.own == []


def test_the_micro_batch_is_random_and_the_same_number_on_all_ranks() -> None:
    flat = Flat(nn.Linear(1, 1), plain, CPU)
    numbers = [
        [chosen(window(rank), flat, seed=0, step=step).microbatches.start for step in range(20)]
        for rank in (0, 1)
    ]
    assert [number + 3 for number in numbers[0]] == numbers[1]
    assert set(numbers[0]) == {0, 1, 2}
