"""A tiny model with everything that layouts trip over, and the layouts it must be equal on."""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch._dynamo  # FSDP2 imports it with the first module: most of a second in each forked rank
import torch.distributed as dist
from torch import Tensor, nn

from keepstep.parallel import (
    Degrees,
    Normal,
    Ones,
    ParallelConfig,
    Plan,
    Policy,
    PrecisionConfig,
    PrecisionName,
    Topology,
    Zeros,
    assemble,
    initialise,
)

SEED = 3
CPU = torch.device("cpu")
TOKENS_BT = torch.arange(8 * 5).view(8, 5) * 7 % 11


class Block(nn.Module):
    """Hidden width 3, so that over 2 ranks shards are uneven and over 4 one of them is empty."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.up = nn.Linear(6, 3)
        self.down = nn.Linear(3, 6)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.down(torch.tanh(self.up(self.norm(hidden))))


class Tiny(nn.Module):
    """Embedding, two blocks, a tied head and a buffer that no checkpoint holds."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(6, 11, bias=False)
        self.register_buffer("positions", torch.arange(5.0).unsqueeze(1) / 5, persistent=False)
        self.head.weight = self.embed.weight

    def rebuild_buffers(self) -> None:
        self.positions = torch.arange(5.0).unsqueeze(1) / 5

    def forward(self, tokens_BT: Tensor) -> Tensor:
        hidden = self.embed(tokens_BT) + self.positions
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(hidden)


PLAN = Plan(
    units=("blocks.*",),
    initial=(("*.norm.weight", Ones()), ("*.bias", Zeros()), ("*", Normal(0.5))),
    tied=(("head.weight", "embed.weight"),),
)


def loss_of(module: nn.Module, tokens_BT: Tensor) -> Tensor:
    """The sum over tokens, so that shares of a batch add up to its whole."""
    logits = module(tokens_BT).float().flatten(0, 1)
    return nn.functional.cross_entropy(logits, tokens_BT.roll(-1, 1).flatten(), reduction="sum")


def assembled(
    config: ParallelConfig,
    *,
    build: Callable[[], nn.Module] = Tiny,
    plan: Plan | None = PLAN,
    precision: PrecisionName = PrecisionName.fp32,
    seed: int = SEED,
) -> tuple[nn.Module, Topology]:
    topology = Topology.create(Degrees.resolve(config, dist.get_world_size()), "cpu")
    module = assemble(
        build,
        plan=plan,
        topology=topology,
        policy=Policy.of(PrecisionConfig(name=precision)),
        device=CPU,
        seed=seed,
        parallel=config,
    )
    return module, topology


def whole() -> nn.Module:
    """The same model with the same values in one process, without any wrapper."""
    module = Tiny()
    initialise(module, PLAN, seed=SEED)
    return module


def share(topology: Topology) -> Tensor:
    return TOKENS_BT.chunk(topology.data_count)[topology.data_index]


def full(module: nn.Module, *, of_grads: bool = False) -> dict[str, Tensor]:
    return {
        name: (parameter.grad if of_grads else parameter).full_tensor().detach().clone()
        for name, parameter in module.named_parameters()
    }


@dataclass(frozen=True)
class Layout:
    size: int
    config: ParallelConfig


LAYOUTS = {
    "1": Layout(1, ParallelConfig()),
    "shard2": Layout(2, ParallelConfig()),
    "replicate2": Layout(2, ParallelConfig(replicate=2)),
    "replicate2-shard2": Layout(4, ParallelConfig(replicate=2)),
    "shard4": Layout(4, ParallelConfig()),
}


@pytest.fixture(params=list(LAYOUTS))
def layout(request: pytest.FixtureRequest) -> Any:
    return LAYOUTS[request.param]


@pytest.fixture
def tiny() -> SimpleNamespace:
    """The model, its plan and batch, and the functions above, for tests without an import path."""
    return SimpleNamespace(
        build=Tiny,
        plan=PLAN,
        seed=SEED,
        tokens=TOKENS_BT,
        loss_of=loss_of,
        assembled=assembled,
        whole=whole,
        share=share,
        sharded=ParallelConfig(),
        full=full,
    )
