"""The mixture of experts: each token by its own experts, counted as built, named as elsewhere."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from keepstep.parallel import initialise
from keepstep.trainer.config import LoadBalance, MoEConfig
from keepstep.trainer.models.llama import Llama
from keepstep.trainer.models.moe import MoE, flops_per_token, moe, moe_plan

VOCABULARY, LENGTH = 19, 12


def config(**changes: Any) -> MoEConfig:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_layers": 3, "num_heads": 4}
    experts = {"num_experts": 4, "num_experts_per_token": 2, "moe_intermediate_size": 8}
    base = {"name": "x", "num_kv_heads": 2, "initializer_range": 0.3, "num_dense_layers": 1}
    return MoEConfig(**{**base, **sizes, **experts, **changes})


def model(**changes: Any) -> Llama:
    made = config(**changes)
    module = moe(made, vocabulary_size=VOCABULARY, max_length=LENGTH)
    plan = moe_plan(made, vocabulary_size=VOCABULARY, sequence_length=LENGTH)
    initialise(module, plan, seed=1)
    return module


def layer(**changes: Any) -> MoE:
    found = model(**changes).layers[2].mlp
    assert isinstance(found, MoE)
    return found


@pytest.mark.parametrize("shared", [0, 1])
def test_a_token_gets_its_chosen_experts_weighted_and_the_shared_one(shared: int) -> None:
    module = layer(num_shared_experts=shared, routed_scaling_factor=1.5)
    x_BTD = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    found = module(x_BTD).flatten(0, 1)
    experts = module.experts
    for x, y in zip(x_BTD.flatten(0, 1), found, strict=True):
        scores = torch.sigmoid(module.gate.weight @ x)
        chosen = scores.topk(2).indices
        wanted = torch.zeros(16)
        for one in chosen:
            inner = F.silu(experts.gate_proj[one] @ x) * (experts.up_proj[one] @ x)
            share = 1.5 * scores[one] / scores[chosen].sum()
            wanted = wanted + share * (experts.down_proj[one] @ inner)
        if module.shared_experts is not None:
            wanted = wanted + module.shared_experts(x)
        torch.testing.assert_close(y, wanted, rtol=1e-4, atol=1e-5)


def test_a_token_s_output_does_not_depend_on_the_others_beside_it() -> None:
    module = layer()
    x_BTD = torch.randn(4, 6, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(module(x_BTD)[1:2], module(x_BTD[1:2]))


def test_the_first_layers_are_dense_where_told() -> None:
    kinds = [type(block.mlp).__name__ for block in model(num_dense_layers=2).layers]
    assert kinds == ["MLP", "MLP", "MoE"]


def test_names_of_parameters_are_those_of_deepseek_v3() -> None:
    names = {
        name.removeprefix("layers.2.mlp.") for name in model(num_shared_experts=2).state_dict()
    }
    assert {
        *("gate.weight", "gate.e_score_correction_bias"),
        *(f"experts.{name}_proj" for name in ("gate", "up", "down")),
        *(f"shared_experts.{name}_proj.weight" for name in ("gate", "up", "down")),
    } <= names


@pytest.mark.parametrize(
    ("balance", "bias", "weight"),
    [(LoadBalance.bias, 0.001, 0.0), (LoadBalance.loss, 0.0, 0.01), (LoadBalance.none, 0.0, 0.0)],
)
def test_one_way_of_balancing_is_on(balance: LoadBalance, bias: float, weight: float) -> None:
    router = layer(load_balance=balance).gate
    assert (router.bias_rate, router.loss_weight) == (bias, weight)


@pytest.mark.parametrize(("shared", "dense"), [(0, 0), (0, 1), (2, 0)])
def test_flops_count_the_weights_that_a_token_meets(shared: int, dense: int) -> None:
    made = config(num_shared_experts=shared, num_dense_layers=dense)
    module = moe(made, vocabulary_size=VOCABULARY, max_length=LENGTH)
    weights = 0.0
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1 and not name.startswith("embed"):
            weights += parameter.numel() * (2 / 4 if ".experts." in name else 1)
    wanted = 6 * weights + 12 * 3 * 16 * LENGTH
    assert flops_per_token(made, VOCABULARY, LENGTH) == wanted


def test_output_projections_of_experts_start_smaller_by_the_depth() -> None:
    experts = layer(num_layers=8, num_dense_layers=0, hidden_size=64).experts
    up, down = (float(p.detach().std()) for p in (experts.up_proj, experts.down_proj))
    assert up == pytest.approx(0.3, rel=0.1)
    assert down / up == pytest.approx(0.25, rel=0.1)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_experts": 0}, r"model.num_experts: found 0, needed 1 or more"),
        ({"num_experts_per_token": 5}, r"model.num_experts_per_token: found 5, needed 1 to 4"),
        ({"num_dense_layers": 3}, r"model.num_dense_layers: found 3, needed 0 to 2"),
        ({"num_shared_experts": -1}, r"model.num_shared_experts: found -1, needed 0 or more"),
        ({"balance_bias_rate": 0.0}, r"model.balance_bias_rate: found 0.0, needed more than 0"),
        ({"num_heads": 3}, r"model.hidden_size: found 16, needed a multiple of 2 x"),
    ],
)
def test_sizes_that_cannot_be_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        config(**changes)


def test_every_parameter_has_a_gradient_though_no_token_chose_some_experts() -> None:
    module = model(num_experts=16, num_experts_per_token=1)
    tokens = torch.zeros(1, 2, dtype=torch.int64)
    loss: Tensor = module(tokens, tokens)
    loss.backward()
    assert [name for name, p in module.named_parameters() if p.grad is None] == []
