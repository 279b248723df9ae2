"""Sums of parts over the ranks of a tensor mesh: the output, and every gradient, as on one rank."""

from types import SimpleNamespace

import pytest
import torch
from support.world import run_world
from torch import Tensor, nn

from keepstep.parallel import Experts, Normal, ParallelConfig, Plan, Router, Style


class Layer(nn.Module):
    """A router and its experts, each of which has all rows, and a pair of linear layers beside."""

    def __init__(self, *, bias: bool) -> None:
        super().__init__()
        self.gate = Router(3, 6, top_k=3, loss_weight=0.5)
        self.experts = Experts(3, 6, 8)
        self.up = nn.Linear(6, 4)
        self.down = nn.Linear(4, 6, bias=bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_ND = x_BTD.flatten(0, 1)
        chosen_NK, weights_NK, counts_E = self.gate(x_ND)
        done = self.experts(x_ND.repeat(3, 1), counts_E).unflatten(0, (3, -1))
        weights_EN = torch.zeros_like(weights_NK).scatter(1, chosen_NK, weights_NK).T
        routed = (done * weights_EN.unsqueeze(-1)).sum(0).view_as(x_BTD)
        return routed + self.down(torch.tanh(self.up(x_BTD)))


class Model(nn.Module):
    def __init__(self, *, bias: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.layer = Layer(bias=bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return x_BTD + self.layer(torch.tanh(self.first(x_BTD)))


def plan(first: Style) -> Plan:
    styles = (("first", first), ("layer", Style.partial))
    inside = (("layer.up", Style.column), ("layer.down", Style.row))
    initial = (("*", Normal(0.5)),)
    return Plan(units=(), initial=initial, tensor=(*styles, *inside), num_experts=3)


@pytest.mark.parametrize("sequence", [False, True])
def test_outputs_and_gradients_are_those_of_one_rank(sequence: bool, tiny: SimpleNamespace) -> None:
    first = Style.sequence if sequence else Style.replicate

    def body(rank: int, config: ParallelConfig) -> dict[str, Tensor]:
        module, _ = tiny.assembled(config, build=Model, plan=plan(first))
        whole = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(1))
        is_part = sequence and config.tensor > 1
        x = (whole.chunk(2, 1)[rank] if is_part else whole).clone().requires_grad_()
        y = module(x)
        y.square().sum().backward()
        assert x.grad is not None
        found = {"y": y.detach(), "x.grad": x.grad}
        return {**found, **tiny.full(module, of_grads=True)}

    (one,) = run_world(1, body, ParallelConfig())
    config = ParallelConfig(tensor=2, sequence_parallel=sequence)
    for rank, found in enumerate(run_world(2, body, config)):
        for name, tensor in found.items():
            is_part = sequence and name in ("y", "x.grad")
            wanted = one[name].chunk(2, 1)[rank] if is_part else one[name]
            torch.testing.assert_close(tensor, wanted, rtol=1e-4, atol=1e-5, msg=name)


def test_a_bias_that_every_rank_would_add_is_refused(tiny: SimpleNamespace) -> None:
    def body(rank: int) -> None:
        with pytest.raises(ValueError, match=r"found a bias in down, a row layer .*bias=False$"):
            tiny.assembled(
                ParallelConfig(tensor=2),
                build=lambda: Model(bias=True),
                plan=plan(Style.replicate),
            )

    run_world(2, body)
