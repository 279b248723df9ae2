"""One accumulation window: parts add up to the whole batch, dropout follows the micro-batch."""

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
    Role,
    Topology,
    assemble,
    sum_,
)
from keepstep.trainer.forward_backward import Divisor, Flat
from keepstep.trainer.seeds import seed_of

CPU = torch.device("cpu")
ROWS = torch.arange(24.0).view(8, 3) / 10


def loss(module: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return module(batch["x"]).square().sum()


def assembled(size: int, dropout: float) -> tuple[nn.Module, Topology]:
    topology = Topology.create(Degrees.resolve(ParallelConfig(), size), "cpu")
    module = assemble(
        lambda: nn.Sequential(nn.Dropout(dropout), nn.Linear(3, 2)),
        plan=Plan(),
        topology=topology,
        policy=Policy.of(PrecisionConfig()),
        device=CPU,
        seed=0,
    )
    return module, topology


def window(size: int, rank: int, samples: int) -> Window:
    batches = [{"x": rows} for rows in ROWS.split(samples)]
    share = len(batches) // size
    mine = range(rank * share, (rank + 1) * share)
    return Window(0, [batches[index] for index in mine], mine)


def gradient(size: int, samples: int, dropout: float = 0.0, seed: int = 5) -> tuple[float, Tensor]:
    """Loss and gradient of the eight rows, in micro-batches of `samples`, dealt to the ranks."""

    def body(rank: int) -> tuple[float, list[float]]:
        module, topology = assembled(size, dropout)
        runner = Flat(module, loss, CPU)
        own = window(size, rank, samples)
        parts = runner.run(own, Divisor(lambda: 8), seed_of(seed, 0, 0))
        assert parts.shape == (len(own.batches),)
        assert not parts.requires_grad
        whole = float(sum_(parts.double().sum(), topology.group(Role.DATA)))
        grads = [p.grad.full_tensor().flatten() for p in module.parameters()]
        return whole, torch.cat(grads).tolist()

    found = run_world(size, body)
    assert all(one == found[0] for one in found)
    return found[0][0], torch.tensor(found[0][1])


@pytest.fixture(scope="module")
def whole() -> tuple[float, Tensor]:
    return gradient(1, 8)


@pytest.mark.parametrize(("size", "samples"), [(1, 4), (1, 1), (2, 4), (2, 1), (4, 2)])
def test_micro_batches_of_all_ranks_add_up_to_the_whole(
    whole: tuple[float, Tensor], size: int, samples: int
) -> None:
    found = gradient(size, samples)
    assert found[0] == pytest.approx(whole[0], rel=1e-6)
    torch.testing.assert_close(found[1], whole[1], rtol=1e-6, atol=1e-6)


def test_dropout_follows_the_micro_batch_and_not_the_rank() -> None:
    one, two = gradient(1, 2, dropout=0.5), gradient(2, 2, dropout=0.5)
    assert two[0] == pytest.approx(one[0], rel=1e-6)
    torch.testing.assert_close(two[1], one[1], rtol=1e-6, atol=1e-6)


def test_dropout_differs_from_step_to_step_and_comes_again_with_its_seed() -> None:
    first, again, other = (gradient(1, 2, dropout=0.5, seed=seed) for seed in (5, 5, 4096))
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])


def test_dropout_differs_from_micro_batch_to_micro_batch() -> None:
    def body(rank: int) -> list[list[bool]]:
        module, _ = assembled(1, 0.5)
        masks: list[list[bool]] = []

        def noting(made: nn.Module, batch: dict[str, Tensor]) -> Tensor:
            state = torch.get_rng_state()
            masks.append((torch.nn.functional.dropout(batch["x"] + 1) != 0).flatten().tolist())
            torch.set_rng_state(state)
            return loss(made, batch)

        Flat(module, noting, CPU).run(window(1, 0, 2), Divisor(lambda: 8), seed_of(5, 0, 0))
        return masks

    (masks,) = run_world(1, body)
    assert len({tuple(mask) for mask in masks}) == 4


def test_a_scaled_loss_scales_the_gradients_and_not_what_is_answered() -> None:
    def body(rank: int) -> tuple[float, float, list[float]]:
        answers, grads = [], torch.zeros(6)
        for scale in (1.0, 1024.0):
            module, _ = assembled(1, 0.0)
            divisor = Divisor(lambda: 8, scale)
            parts = Flat(module, loss, CPU).run(window(1, 0, 2), divisor, seed_of(5, 0, 0))
            answers.append(float(parts.sum()))
            grad = module[1].weight.grad.full_tensor().flatten()
            grads = grad if scale == 1.0 else grad / scale - grads
        return *answers, grads.tolist()

    (found,) = run_world(1, body)
    assert found[0] == found[1]
    assert found[2] == [0.0] * 6


def test_a_divisor_says_what_one_of_the_summed_loss_counts() -> None:
    divisor = Divisor(lambda: 8, 4.0)
    assert divisor.unit == 0.5
    assert float(divisor.scaled(torch.tensor(3.0))) == 3.0 * divisor.unit
