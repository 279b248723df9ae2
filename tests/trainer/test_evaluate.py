"""An evaluation is one number, whatever the layout and the size of its batches."""

import pytest
import torch
from support.world import run_world
from torch import Tensor, nn

from keepstep.data import TensorSource
from keepstep.parallel import (
    Degrees,
    ParallelConfig,
    Plan,
    Policy,
    PrecisionConfig,
    Topology,
    assemble,
)
from keepstep.trainer import Recipe
from keepstep.trainer.evaluate import evaluate

ROWS = 11


class Dropped(nn.Module):
    """A layer behind a dropout that would show if it were on."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.line = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.line(self.drop(x))
        return out


def held_out() -> dict[str, Tensor]:
    x = torch.arange(ROWS * 3.0).view(ROWS, 3) / 10
    return {"x": x, "weight": torch.arange(ROWS)}


def loss(module: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return (module(batch["x"]).squeeze(1) * batch["weight"]).sum()


RECIPE = Recipe(
    model=Dropped, loss=loss, samples={}, targets=lambda batch: int(batch["weight"].sum())
)


def number(size: int, samples: int, replicate: int = 1) -> list[tuple[float, int, bool]]:
    def body(rank: int) -> tuple[float, int, bool]:
        degrees = Degrees.resolve(ParallelConfig(replicate=replicate), size)
        topology = Topology.create(degrees, "cpu")
        module = assemble(
            RECIPE.model,
            plan=Plan(),
            topology=topology,
            policy=Policy.of(PrecisionConfig()),
            device=torch.device("cpu"),
            seed=0,
        )
        beats: list[int] = []
        found = evaluate(
            module,
            TensorSource(held_out()),
            RECIPE,
            topology,
            device=torch.device("cpu"),
            microbatch_samples=samples,
            beat=lambda: beats.append(1),
        )
        assert all(parameter.grad is None for parameter in module.parameters())
        return found, len(beats), module.training

    found: list[tuple[float, int, bool]] = run_world(size, body)
    return found


def test_it_is_the_weighted_mean_over_each_row_once() -> None:
    (whole,) = number(1, ROWS)
    by_hand = run_world(1, lambda rank: by_rows())[0]
    assert whole[0] == pytest.approx(by_hand, rel=1e-6)


def by_rows() -> float:
    topology = Topology.create(Degrees.resolve(ParallelConfig(), 1), "cpu")
    policy, cpu = Policy.of(PrecisionConfig()), torch.device("cpu")
    module = assemble(
        RECIPE.model, plan=Plan(), topology=topology, policy=policy, device=cpu, seed=0
    )
    module.eval()
    rows = held_out()
    with torch.no_grad():
        parts = [float(loss(module, {k: v[i : i + 1] for k, v in rows.items()})) for i in range(11)]
    return sum(parts) / sum(range(ROWS))


@pytest.mark.parametrize(("size", "replicate"), [(1, 1), (2, 1), (2, 2), (4, 2)])
def test_every_layout_gives_the_number_of_one_rank(size: int, replicate: int) -> None:
    (wanted,) = number(1, ROWS)
    for samples in (2, 4):  # 11 rows: the last batch is short, and some ranks have none
        found = number(size, samples, replicate)
        assert [one for one, _, _ in found] == pytest.approx([wanted[0]] * size, rel=1e-6)
        assert len({one for one, _, _ in found}) == 1


def test_it_beats_before_each_batch_and_leaves_the_module_in_training() -> None:
    assert [(beats, training) for _, beats, training in number(1, 4)] == [(3, True)]
    assert [(beats, training) for _, beats, training in number(2, 2)] == [(3, True)] * 2
