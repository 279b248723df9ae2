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
from keepstep.trainer.forward_backward import forward_backward

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
        part = forward_backward(
            module, window(size, rank, samples), loss, targets=lambda: 8, device=CPU, seed=seed
        )
        assert part.ndim == 0
        assert not part.requires_grad
        whole = float(sum_(part.double(), topology.group(Role.DATA)))
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

        forward_backward(module, window(1, 0, 2), noting, targets=lambda: 8, device=CPU, seed=5)
        return masks

    (masks,) = run_world(1, body)
    assert len({tuple(mask) for mask in masks}) == 4


def test_a_window_without_micro_batches_cannot_be() -> None:
    with pytest.raises(AssertionError, match="at least one"):
        forward_backward(
            nn.Linear(3, 2), Window(0, [], range(0)), loss, targets=lambda: 1, device=CPU, seed=0
        )
