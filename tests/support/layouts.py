"""A small model of every kind of parameter, laid out by hand over forked ranks."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch._dynamo  # FSDP2 imports it with the first module: once here instead of in each rank
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

from keepstep.parallel import global_positions

TOKENS = torch.arange(12) * 5 % 7


class Mixed(nn.Module):
    """Embedding, norm, matrices, a stack of three, a head. Nothing divides a width of 7, but tensor
    parallelism computes with even widths only."""

    def __init__(self, width: int = 7) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(9, 6)  # two rows are never looked up
        self.norm = nn.LayerNorm(6)
        self.up = nn.Linear(6, width)
        self.down = nn.Linear(width, 6)
        self.experts = nn.Parameter(torch.randn(3, 4, 6) / 3)
        self.narrow = nn.Linear(4, 1)  # one row: most ranks hold nothing of it
        self.head = nn.Linear(6, 7)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embed(tokens)
        hidden = hidden + self.down(torch.tanh(self.up(self.norm(hidden))))
        mixed = torch.einsum("bi,eoi->bo", hidden, self.experts)
        logits: Tensor = self.head(hidden) * torch.tanh(1 + self.narrow(torch.tanh(mixed)))
        return logits


def loss_of(module: nn.Module) -> Tensor:
    """The same batch on every rank, so that averaged gradients are those of one process."""
    return nn.functional.cross_entropy(module(TOKENS), TOKENS.roll(1))


def _shard(module: Mixed, size: int) -> None:
    fully_shard(module, mesh=init_device_mesh("cpu", (size,)))


def _replicate_shard(module: Mixed) -> None:
    fully_shard(module, mesh=init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard")))


def _columns(module: Mixed) -> None:
    """FSDP over the second dim of what divides: stacks are cut through their matrices."""
    mesh = init_device_mesh("cpu", (2,))

    def place(parameter: nn.Parameter) -> Shard:
        return Shard(1 if parameter.ndim > 1 and parameter.size(1) % 2 == 0 else 0)

    fully_shard(module, mesh=mesh, shard_placement_fn=place)


_TENSOR = {"up": ColwiseParallel, "down": RowwiseParallel}


def _tensor(module: Mixed) -> None:
    mesh = init_device_mesh("cpu", (2,))
    parallelize_module(module, mesh, {name: style() for name, style in _TENSOR.items()})


def _shard_tensor(module: Mixed) -> None:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("shard", "tensor"))
    parallelize_module(module, mesh["tensor"], {name: style() for name, style in _TENSOR.items()})
    fully_shard(module, mesh=mesh["shard"])


@dataclass(frozen=True)
class Layout:
    size: int
    apply: Callable[[Mixed], None]


LAYOUTS = {
    "shard2": Layout(2, lambda module: _shard(module, 2)),
    "columns2": Layout(2, _columns),
    "tensor2": Layout(2, _tensor),
    "shard4": Layout(4, lambda module: _shard(module, 4)),
    "replicate2-shard2": Layout(4, _replicate_shard),
    "shard2-tensor2": Layout(4, _shard_tensor),
}


def full(tensor: Tensor) -> Tensor:
    """Collective: a copy of the whole tensor."""
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole.detach().clone()


def like(parameter: Tensor, whole: Tensor) -> Tensor:
    """This rank's part of `whole`, placed like the parameter and in its dtype."""
    part = whole.to(parameter.dtype).flatten()[global_positions(parameter)]
    if not isinstance(parameter, DTensor):
        return part
    return DTensor.from_local(
        part,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )
