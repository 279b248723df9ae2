"""Which optimizer a configuration stands for: its groups, its kernels, its refusals."""

from typing import Any

import pytest
import torch
from torch import nn

from keepstep.trainer.optim import build_optimizer
from keepstep.trainer.optim.config import (
    AdamWConfig,
    Implementation,
    LionConfig,
    MuonConfig,
    OptimConfig,
    SGDConfig,
    StateDtype,
)
from keepstep.trainer.optim.elementwise import Elementwise
from keepstep.trainer.optim.muon import Muon
from keepstep.trainer.optim.sharded import ShardedAdamW

KINDS = [AdamWConfig, LionConfig, SGDConfig, MuonConfig]


def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(7, 4), nn.LayerNorm(4), nn.Linear(4, 3))


def test_matrices_decay_and_vectors_do_not() -> None:
    made = module()
    groups = build_optimizer(AdamWConfig(weight_decay=0.3), made).param_groups
    names = {id(p): name for name, p in made.named_parameters()}
    decayed = {g["weight_decay"]: sorted(names[id(p)] for p in g["params"]) for g in groups}
    assert decayed == {0.3: ["0.weight", "2.weight"], 0.0: ["1.bias", "1.weight", "2.bias"]}


def test_frozen_parameters_are_left_out() -> None:
    made = module()
    made[0].weight.requires_grad_(False)
    groups = build_optimizer(AdamWConfig(), made).param_groups
    assert sum(len(group["params"]) for group in groups) == 4


def test_a_module_of_vectors_alone_has_one_group() -> None:
    groups = build_optimizer(AdamWConfig(), nn.LayerNorm(4)).param_groups
    assert [group["weight_decay"] for group in groups] == [0.0]


def test_the_configuration_reaches_the_optimizer() -> None:
    config = AdamWConfig(lr=0.02, beta1=0.8, beta2=0.9, eps=1e-3)
    group = build_optimizer(config, module()).param_groups[0]
    assert (group["lr"], group["betas"], group["eps"]) == (0.02, (0.8, 0.9), 1e-3)


def test_fused_kernels_are_taken_where_there_are_some() -> None:
    assert build_optimizer(AdamWConfig(), module()).defaults["fused"] is True


@pytest.mark.parametrize("name", ["fused", "foreach", "loop"])
def test_an_implementation_that_is_asked_for_is_taken(name: str) -> None:
    made = build_optimizer(AdamWConfig(implementation=Implementation(name)), module())
    found = (made.defaults["fused"], made.defaults["foreach"])
    assert found == (name == "fused", name == "foreach")


@pytest.mark.parametrize("kind", KINDS)
def test_all_implementations_of_an_optimizer_do_the_same(kind: Any) -> None:
    ends = []
    names = list(Implementation) if kind is AdamWConfig else ["foreach", "loop"]
    for name in names:
        made = module()
        optimizer = build_optimizer(kind(implementation=Implementation(name), lr=0.01), made)
        for _ in range(3):
            made(torch.arange(7)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        ends.append(torch.cat([p.detach().flatten() for p in made.parameters()]))
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_every_optimizer_decays_matrices_and_no_vectors(kind: Any) -> None:
    """Without gradients nothing but the decay moves a weight: a tenth of it, or none."""
    made = module()
    before = {name: p.detach().clone() for name, p in made.named_parameters()}
    optimizer = build_optimizer(kind(lr=0.5, weight_decay=0.2), made)
    for parameter in made.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in made.named_parameters():
        wanted = before[name] * (0.9 if parameter.ndim >= 2 else 1.0)
        torch.testing.assert_close(parameter.detach(), wanted)


def test_muon_takes_hidden_matrices_and_leaves_the_rest_to_adamw() -> None:
    made = nn.ModuleDict(
        {"embed": nn.Embedding(7, 4), "hidden": nn.Linear(4, 4), "lm_head": nn.Linear(4, 7)}
    )
    optimizer = build_optimizer(MuonConfig(lr=0.1, adamw_ratio=0.5), made)
    assert isinstance(optimizer, Muon)
    found = {g["is_hidden"]: [] for g in optimizer.param_groups}
    for group in optimizer.param_groups:
        found[group["is_hidden"]] += [(name, group["lr"]) for name in group["param_names"]]
    assert found[True] == [("hidden.weight", 0.1)]
    assert {name for name, _ in found[False]} == {
        *("embed.weight", "hidden.bias", "lm_head.weight", "lm_head.bias"),
    }
    assert {lr for _, lr in found[False]} == {0.05}


def test_muon_heeds_the_globs_that_it_is_told() -> None:
    made = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False)})
    groups = build_optimizer(MuonConfig(exclude=["b.*"]), made).param_groups
    assert [(g["is_hidden"], g["param_names"]) for g in groups] == [
        (True, ["a.weight"]),
        (False, ["b.weight"]),
    ]


def test_adamw_is_torchs_own_unless_something_is_rounded() -> None:
    assert isinstance(build_optimizer(AdamWConfig(), module()), ShardedAdamW)
    assert isinstance(build_optimizer(AdamWConfig(), module().bfloat16()), Elementwise)
    config = AdamWConfig(state_dtype=StateDtype.bf16)
    assert isinstance(build_optimizer(config, module()), Elementwise)


@pytest.mark.parametrize("kind", KINDS)
def test_moments_are_kept_in_the_dtype_that_was_asked_for(kind: Any) -> None:
    made = module()
    optimizer = build_optimizer(kind(state_dtype=StateDtype.bf16), made)
    made(torch.arange(7)).square().sum().backward()
    optimizer.step()
    dtypes = {
        value.dtype
        for state in optimizer.state.values()
        for key, value in state.items()
        if key != "step"
    }
    assert dtypes == {torch.bfloat16}


def test_fused_kernels_are_refused_where_something_is_rounded() -> None:
    config = AdamWConfig(implementation=Implementation.fused)
    with pytest.raises(ValueError, match=r"^optim.implementation: found 'fused' .*bfloat16.*; set"):
        build_optimizer(config, module().bfloat16())


def test_parameters_of_another_dtype_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^optim=lion: found parameters in torch.float64, needed"):
        build_optimizer(LionConfig(), module().double())


def test_a_config_without_an_optimizer_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"^optim: found OptimConfig, needed adamw, lion, muon"):
        build_optimizer(OptimConfig(), module())


@pytest.mark.parametrize("implementation", list(Implementation))
def test_adamw_has_the_bits_and_the_names_of_torchs_own(implementation: Implementation) -> None:
    torch.manual_seed(3)
    ours, theirs = module(), module()
    theirs.load_state_dict(ours.state_dict())
    config = AdamWConfig(lr=0.1, weight_decay=0.3, implementation=implementation)
    one = build_optimizer(config, ours)
    kernels = {key: one.defaults[key] for key in ("fused", "foreach")}
    twins = dict(zip(ours.parameters(), theirs.parameters(), strict=True))
    groups = [{**g, "params": [twins[p] for p in g["params"]]} for g in one.param_groups]
    two = torch.optim.AdamW(groups, lr=0.1, **kernels)
    for _ in range(3):
        for made, optimizer in ((ours, one), (theirs, two)):
            optimizer.zero_grad()
            made(torch.arange(7)).square().sum().backward()
            optimizer.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q)
        assert one.state[p].keys() == two.state[q].keys()
        assert all(torch.equal(one.state[p][key], two.state[q][key]) for key in two.state[q])
