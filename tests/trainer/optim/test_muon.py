"""Muon's own arithmetic, and who does its work."""

import pytest
import torch
from support.layouts import LAYOUTS, Mixed, like
from support.world import run_world
from torch import nn

from keepstep.trainer.optim import build_optimizer
from keepstep.trainer.optim import muon as muon_file
from keepstep.trainer.optim.config import MuonConfig, MuonScale
from keepstep.trainer.optim.orthogonalise import orthogonalise


@pytest.mark.parametrize("nesterov", [True, False])
def test_steps_are_those_of_torchs_muon_but_for_its_bfloat16(nesterov: bool) -> None:
    ends = []
    for is_mine in (True, False):
        torch.manual_seed(0)
        module = nn.Linear(9, 5, bias=False)
        config = MuonConfig(lr=0.02, nesterov=nesterov, scale=MuonScale.original)
        optimizer: torch.optim.Optimizer = build_optimizer(config, module)
        if not is_mine:
            optimizer = torch.optim.Muon(
                module.parameters(), lr=0.02, weight_decay=0.1, nesterov=nesterov
            )
        before = module.weight.detach().clone()
        for _ in range(3):
            module.weight.grad = torch.randn(5, 9)
            optimizer.step()
        ends.append(module.weight.detach() - before)
    error = (ends[0] - ends[1]).norm() / ends[1].norm()
    assert error < 0.02, float(error)


def test_a_step_is_about_as_large_as_adamws() -> None:
    torch.manual_seed(0)
    module = nn.Linear(64, 48, bias=False)
    before = module.weight.detach().clone()
    module.weight.grad = torch.randn(48, 64)
    build_optimizer(MuonConfig(lr=0.01, weight_decay=0.0), module).step()
    root_mean_square = (module.weight.detach() - before).square().mean().sqrt().item()
    assert root_mean_square == pytest.approx(0.2 * 0.01, rel=0.25)


def test_each_matrix_of_a_stack_moves_by_itself() -> None:
    torch.manual_seed(0)
    grads = torch.randn(3, 4, 6)
    stacked = nn.ParameterDict({"experts": nn.Parameter(torch.zeros(3, 4, 6))})
    alone = nn.ParameterDict({f"{i}": nn.Parameter(torch.zeros(4, 6)) for i in range(3)})
    stacked["experts"].grad = grads
    for index in range(3):
        alone[f"{index}"].grad = grads[index]
    for module in (stacked, alone):
        build_optimizer(MuonConfig(lr=0.1), module).step()
    wanted = torch.stack([alone[f"{index}"].detach() for index in range(3)])
    torch.testing.assert_close(stacked["experts"].detach(), wanted)


@pytest.mark.parametrize("name", ["shard4", "replicate2-shard2", "shard2-tensor2"])
def test_each_matrix_is_orthogonalised_on_one_rank(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stacks that are cut between their matrices stay, and so do those that copies hold."""

    def body(rank: int) -> list[tuple[int, ...]]:
        done: list[tuple[int, ...]] = []

        def counted(matrices: torch.Tensor, **settings: object) -> torch.Tensor:
            done.extend([tuple(matrices.shape[1:])] * matrices.size(0))
            return orthogonalise(matrices, **settings)  # type: ignore[arg-type]

        monkeypatch.setattr(muon_file, "orthogonalise", counted)
        module = Mixed(8)
        LAYOUTS[name].apply(module)
        for parameter in module.parameters():
            parameter.grad = like(parameter, torch.ones(parameter.shape))
        build_optimizer(MuonConfig(), module).step()
        return done

    work = run_world(4, body)
    flat = sorted(shape for done in work for shape in done)
    copies = 1 if name == "shard4" else 2
    # Where tensor parallelism is beside FSDP, what it leaves alone is on two meshes of two ranks.
    narrow = 2 if name == "shard2-tensor2" else 1
    wanted = [(8, 6), (6, 8)] + [(1, 4)] * narrow + [(4, 6)] * 3 * copies
    assert flat == sorted(wanted)
