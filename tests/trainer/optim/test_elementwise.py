"""Rules do what torch's optimizers or the papers say, in float32 and in bfloat16."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from keepstep.trainer.optim import build_optimizer
from keepstep.trainer.optim.adamw import AdamWRule
from keepstep.trainer.optim.config import AdamWConfig, LionConfig, SGDConfig, StateDtype
from keepstep.trainer.optim.elementwise import Elementwise, Keeping
from keepstep.trainer.optim.rule import Rule
from keepstep.trainer.optim.sgd import SGDRule

FP32 = Keeping(dtype=torch.float32, seed=0)


def weight() -> nn.Parameter:
    return nn.Parameter(torch.randn(3, 5, generator=torch.Generator().manual_seed(2)))


def walked(parameter: nn.Parameter, optimizer: torch.optim.Optimizer, steps: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    for _ in range(steps):
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        optimizer.step()
    return parameter.detach()


def sgd(**settings: object) -> Callable[[list[nn.Parameter]], torch.optim.Optimizer]:
    return lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.3, **settings)  # type: ignore[arg-type]


TWINS: list[tuple[Rule, Callable[[list[nn.Parameter]], torch.optim.Optimizer]]] = [
    (
        AdamWRule(beta1=0.8, beta2=0.9, eps=1e-4),
        lambda p: torch.optim.AdamW(p, lr=0.1, betas=(0.8, 0.9), eps=1e-4, weight_decay=0.3),
    ),
    (SGDRule(momentum=0.0, nesterov=False), sgd()),
    (SGDRule(momentum=0.7, nesterov=False), sgd(momentum=0.7)),
    (SGDRule(momentum=0.7, nesterov=True), sgd(momentum=0.7, nesterov=True)),
]


@pytest.mark.parametrize(("rule", "twin"), TWINS)
@pytest.mark.parametrize("is_foreach", [True, False])
def test_a_rule_does_what_torchs_optimizer_does(
    rule: Rule,
    twin: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
    is_foreach: bool,
) -> None:
    mine, theirs = weight(), weight()
    keeping = Keeping(dtype=torch.float32, seed=0, is_foreach=is_foreach)
    groups = [{"params": [("w", mine)], "weight_decay": 0.3}]
    found = walked(mine, Elementwise(groups, rule, keeping, lr=0.1))
    torch.testing.assert_close(found, walked(theirs, twin([theirs])), rtol=1e-5, atol=1e-6)


def test_lion_moves_by_its_rate_along_the_sign_and_then_averages() -> None:
    parameter = nn.Parameter(torch.tensor([[1.0, -2.0, 3.0]]))
    module = nn.ParameterDict({"w": parameter})
    optimizer = build_optimizer(LionConfig(lr=0.1, weight_decay=0.5, beta1=0.5, beta2=0.75), module)
    parameter.grad = torch.tensor([[4.0, -8.0, 0.0]])
    optimizer.step()
    assert parameter.tolist() == [pytest.approx([0.85, -1.8, 2.85])]
    assert optimizer.state[parameter]["exp_avg"].tolist() == [[1.0, -2.0, 0.0]]
    parameter.grad = torch.tensor([[-1.5, 1.0, 0.0]])
    optimizer.step()
    # 0.5 x 1 - 0.5 x 1.5 < 0: up again; -0.5 x 2 + 0.5 x 1 < 0: up again; 0: decay alone.
    assert parameter.tolist() == [pytest.approx([0.9075, -1.61, 2.7075])]


def test_a_parameter_whose_gradient_comes_late_counts_its_own_steps() -> None:
    early, late = weight(), weight()
    module = nn.ParameterDict({"early": early, "late": late})
    optimizer = build_optimizer(SGDConfig(lr=0.1, weight_decay=0.0), module)
    walked(early, optimizer, 2)
    early.grad, late.grad = torch.zeros_like(early), torch.ones_like(late)
    before = late.detach().clone()
    optimizer.step()
    assert [float(optimizer.state[p]["step"]) for p in (early, late)] == [3.0, 1.0]
    torch.testing.assert_close(late.detach(), before - 0.1)


@pytest.mark.parametrize("kind", [AdamWConfig, LionConfig, SGDConfig])
def test_bfloat16_follows_float32_where_rounding_to_nearest_stalls(kind: type) -> None:
    """Steps a twentieth of a unit of the last place: in float32 they add up, and by lot too."""
    exact = nn.ParameterDict({"w": nn.Parameter(torch.full((64, 64), 1.0))})
    rounded = nn.ParameterDict({"w": nn.Parameter(torch.full((64, 64), 1.0).bfloat16())})
    lr = 2.0**-8 / 20
    config = kind(lr=lr, weight_decay=0.0, state_dtype=StateDtype.bf16)
    if kind is SGDConfig:
        config = SGDConfig(lr=lr, weight_decay=0.0, momentum=0.0, state_dtype=StateDtype.bf16)
    for module in (exact, rounded):
        optimizer = build_optimizer(config, module)
        for _ in range(40):
            module["w"].grad = torch.ones_like(module["w"])
            optimizer.step()
    wanted = 1 - 40 * lr
    assert exact["w"].mean().item() == pytest.approx(wanted, abs=lr / 2)
    assert rounded["w"].double().mean().item() == pytest.approx(wanted, abs=lr)
    assert (torch.tensor(1.0) - lr).bfloat16() == 1.0


def test_another_seed_rounds_otherwise_and_the_same_seed_the_same() -> None:
    ends = []
    for seed in (0, 0, 1):
        module = nn.ParameterDict({"w": nn.Parameter(weight().data.bfloat16())})
        optimizer = build_optimizer(AdamWConfig(lr=1e-3), module, seed=seed)
        ends.append(walked(module["w"], optimizer))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])
