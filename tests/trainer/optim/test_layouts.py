"""A step does not know how its parameters are laid out."""

import pytest
import torch
from support.layouts import LAYOUTS, Layout, Mixed, full, like, loss_of
from support.world import run_world
from torch import Tensor

from keepstep.trainer.optim import build_optimizer
from keepstep.trainer.optim.config import (
    AdamWConfig,
    LionConfig,
    MuonConfig,
    OptimConfig,
    SGDConfig,
    StateDtype,
)

CONFIGS: dict[str, OptimConfig] = {
    "adamw": AdamWConfig(lr=0.01),
    "lion": LionConfig(lr=0.003),
    "sgd": SGDConfig(lr=0.1, nesterov=True),
    "muon": MuonConfig(lr=0.01),
}
BF16 = {"state_dtype": StateDtype.bf16}
ROUNDED: dict[str, tuple[OptimConfig, torch.dtype]] = {
    "adamw, bf16 moments": (AdamWConfig(**BF16), torch.float32),
    "adamw, all bf16": (AdamWConfig(**BF16), torch.bfloat16),
    "lion, all bf16": (LionConfig(**BF16), torch.bfloat16),
    "sgd, bf16 parameters": (SGDConfig(), torch.bfloat16),
    "muon, bf16 momentum": (MuonConfig(**BF16), torch.float32),
    "muon, bf16 parameters": (MuonConfig(), torch.bfloat16),
}
Ends = dict[str, dict[str, Tensor]]


@pytest.fixture(params=list(LAYOUTS))
def layout(request: pytest.FixtureRequest) -> Layout:
    return LAYOUTS[request.param]


def trained(layout: Layout | None) -> Ends:
    """The weights after five steps by each optimizer."""
    ends: Ends = {}
    for name, config in CONFIGS.items():
        module = Mixed(8)
        if layout is not None:
            layout.apply(module)
        optimizer = build_optimizer(config, module)
        for _ in range(5):
            loss_of(module).backward()
            optimizer.step()
            optimizer.zero_grad()
        ends[name] = {name: full(p) for name, p in module.named_parameters()}
    return ends


@pytest.fixture(scope="module")
def alone() -> Ends:
    return trained(None)


@pytest.mark.slow(but=["tensor2", "columns2", "shard2"])
def test_weights_after_five_steps_are_those_of_one_process(layout: Layout, alone: Ends) -> None:
    start = dict(Mixed(8).named_parameters())
    for ends in run_world(layout.size, lambda rank: trained(layout)):
        for optimizer, found in ends.items():
            for name, weight in found.items():
                wanted = alone[optimizer][name]
                assert not torch.equal(wanted, start[name]), (optimizer, name)
                error = (weight - wanted).norm() / wanted.norm()
                assert error < 1e-5, (optimizer, name, float(error))


def stepped(layout: Layout | None) -> Ends:
    """Parameters and state after three steps along gradients that are the same on all layouts."""
    ends: Ends = {}
    for title, (config, dtype) in ROUNDED.items():
        module = Mixed().to(dtype)
        if layout is not None:
            layout.apply(module)
        optimizer = build_optimizer(config, module, seed=5)
        generator = torch.Generator().manual_seed(1)
        for _ in range(3):
            for parameter in module.parameters():
                whole = torch.randn(parameter.shape, generator=generator)
                parameter.grad = like(parameter, whole)
            optimizer.step()
        ends[title] = {name: full(p) for name, p in module.named_parameters()}
        for name, parameter in module.named_parameters():
            for key, value in optimizer.state[parameter].items():
                ends[title][f"{name}.{key}"] = full(value)
    return ends


@pytest.fixture(scope="module")
def alone_rounded() -> Ends:
    return stepped(None)


@pytest.mark.slow(but=["columns2", "shard2", "tensor2"])
def test_what_is_rounded_has_the_same_bits_on_every_layout(
    layout: Layout, alone_rounded: Ends
) -> None:
    for ends in run_world(layout.size, lambda rank: stepped(layout)):
        for title, wanted in alone_rounded.items():
            assert list(ends[title]) == list(wanted)
            for name in wanted:
                assert torch.equal(ends[title][name], wanted[name]), (title, name)
