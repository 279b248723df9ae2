"""Optimizer state that exists from the start, and is let go where its first values differ."""

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn

from keepstep.trainer.optim import build_optimizer, forget_state, materialise_state
from keepstep.trainer.optim.config import (
    AdamWConfig,
    LionConfig,
    MuonConfig,
    OptimConfig,
    SGDConfig,
    StateDtype,
)


def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(7, 4), nn.LayerNorm(4), nn.Linear(4, 3))


def step(made: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    made(torch.arange(7)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def own(config: OptimConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    named = {f"{index}": parameter for index, parameter in enumerate(parameters)}
    return build_optimizer(config, nn.ParameterDict(named))


OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]] = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.5),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.5),
    "plain sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "own lion": lambda parameters: own(LionConfig(lr=0.1), parameters),
    "own sgd": lambda parameters: own(SGDConfig(lr=0.1), parameters),
    "own muon": lambda parameters: own(MuonConfig(lr=0.1), parameters),
    "rounded adamw": lambda parameters: own(
        AdamWConfig(lr=0.1, state_dtype=StateDtype.bf16), parameters
    ),
    "adamax": lambda parameters: torch.optim.Adamax(parameters, lr=0.1),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.1, momentum=0.5),
}


@pytest.fixture(params=list(OPTIMIZERS))
def make(request: pytest.FixtureRequest) -> Callable[..., torch.optim.Optimizer]:
    return OPTIMIZERS[request.param]


def test_state_exists_before_a_step_and_parameters_keep_their_bits(
    make: Callable[..., torch.optim.Optimizer],
) -> None:
    made = module()
    before = [parameter.detach().clone() for parameter in made.parameters()]
    optimizer = make(made.parameters())
    materialise_state(optimizer)
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), before, strict=True))
    assert all(parameter.grad is None for parameter in made.parameters())
    assert {group["lr"] for group in optimizer.param_groups} == {0.1}
    values = [v for state in optimizer.state.values() for v in state.values()]
    assert all(not bool(v.any()) for v in values if isinstance(v, Tensor))


FIRST_VALUES: dict[str, Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]] = {
    "nadam": lambda parameters: torch.optim.NAdam(parameters, lr=0.1),
    "asgd": lambda parameters: torch.optim.ASGD(parameters, lr=0.1),
    "rprop": lambda parameters: torch.optim.Rprop(parameters, lr=0.1),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1, initial_accumulator_value=0.5),
}


@pytest.mark.parametrize("name", [*OPTIMIZERS, *FIRST_VALUES])
def test_training_after_state_was_made_and_forgotten_is_training_from_none(name: str) -> None:
    ends = []
    for is_made in (True, False):
        made = module()
        optimizer = (OPTIMIZERS | FIRST_VALUES)[name](made.parameters())
        if is_made:
            forget_state(optimizer, materialise_state(optimizer))
        for _ in range(3):
            step(made, optimizer)
        ends.append(torch.cat([parameter.detach().flatten() for parameter in made.parameters()]))
    assert torch.equal(ends[0], ends[1])


def test_state_that_exists_keeps_its_values_when_the_rest_is_made() -> None:
    made = module()
    optimizer = OPTIMIZERS["adamw"](made.parameters())
    made[2](torch.ones(4)).sum().backward()
    optimizer.step()
    kept = {id(p): optimizer.state[p]["exp_avg"].clone() for p in made[2].parameters()}
    before = made[2].weight.detach().clone()
    found = materialise_state(optimizer)
    assert {id(p) for p in found} == {id(p) for p in (*made[0].parameters(), *made[1].parameters())}
    assert all(
        torch.equal(optimizer.state[p]["exp_avg"], kept[id(p)]) for p in made[2].parameters()
    )
    assert all(float(optimizer.state[p]["step"]) == 1 for p in made[2].parameters())
    assert torch.equal(made[2].weight, before)
    assert materialise_state(optimizer) == []


def test_made_state_has_the_names_that_a_step_leaves(
    make: Callable[..., torch.optim.Optimizer],
) -> None:
    made = module()
    optimizer = make(made.parameters())
    materialise_state(optimizer)
    before = [sorted(optimizer.state[parameter]) for parameter in made.parameters()]
    step(made, optimizer)
    assert [sorted(optimizer.state[parameter]) for parameter in made.parameters()] == before
