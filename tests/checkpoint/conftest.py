"""What the checkpoint tests share: ranks that speak over gloo, and states on every kind of mesh."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from keepstep.checkpoint import Checkpoints, LocalStore, Saved, SoloExchange, tensor_digest

State = dict[str, torch.Tensor]


class GlooExchange:
    """An Exchange over the default gloo group: padded byte tensors, no pickle."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()

    def gather_bytes(self, payload: bytes) -> list[bytes]:
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor([len(payload)]))
        width = max(1, max(int(length) for length in lengths))
        padded = torch.frombuffer(bytearray(payload.ljust(width, b"\0")), dtype=torch.uint8)
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        both = zip(parts, lengths, strict=True)
        return [part.numpy().tobytes()[: int(length)] for part, length in both]

    def all_agree(self, ok: bool) -> bool:
        vote = torch.tensor([ok], dtype=torch.int32)
        dist.all_reduce(vote, op=dist.ReduceOp.MIN)
        return bool(vote)


def full_state(seed: int) -> State:
    """A model and its optimizer in full form: uneven dims, one row, nothing, 0-d, four dtypes."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "model.embed": torch.randn(7, 6, generator=generator),
        "model.half": torch.randn(5, 3, generator=generator).bfloat16(),
        "model.row": torch.randn(1, 4, generator=generator),
        "model.none": torch.empty(0, 3),
        "model.deep": torch.randn(6, 5, 2, generator=generator).double(),
        "optim.step": torch.tensor(float(seed)),
        "plain.counts": torch.arange(5, dtype=torch.int64) * seed,
        "plain.seed": torch.tensor(seed, dtype=torch.int64),
        "plain.mask": torch.tensor([True, False, seed % 2 == 0]),
    }


LAYOUTS: dict[str, tuple[int, tuple[int, ...], tuple[Any, ...]]] = {
    "solo": (1, (1,), (Shard(0),)),
    "shard2": (2, (2,), (Shard(0),)),
    "shard2_dim1": (2, (2,), (Shard(1),)),
    "replicate2": (2, (2, 1), (Replicate(), Shard(0))),
    "shard4": (4, (4,), (Shard(0),)),
    "hsdp2x2": (4, (2, 2), (Replicate(), Shard(0))),
    "grid2x2": (4, (2, 2), (Shard(0), Shard(1))),
}


def spread(full: State, layout: str) -> State:
    """The state on this world's ranks; `plain.*` and 0-d tensors stay plain."""
    _, shape, placements = LAYOUTS[layout]
    axes = ("replicate", "shard")[-len(shape) :]
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=axes)
    return {
        name: tensor.clone()
        if name.startswith("plain.") or tensor.dim() == 0
        else distribute_tensor(tensor.clone(), mesh, placements, src_data_rank=None)
        for name, tensor in full.items()
    }


def gathered(state: State) -> State:
    return {n: t.full_tensor() if isinstance(t, DTensor) else t for n, t in state.items()}


def is_equal(one: State, other: State) -> bool:
    """Bit for bit, names, dtypes and shapes included."""
    digests = [
        {name: tensor_digest(name, t) for name, t in state.items()} for state in (one, other)
    ]
    return digests[0] == digests[1]


def save(checkpoints: Checkpoints, state: State, step: int) -> Saved:
    """A save with something in each of its records."""
    return checkpoints.save(
        state,
        step=step,
        topology={"world_size": 1},
        progress={"step": step, "loss": 0.1},
        lineage={"parent": None},
    )


def zeroed(full: State) -> State:
    return {name: torch.zeros_like(tensor) for name, tensor in full.items()}


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    """The helpers above, for test modules, which cannot import from here."""
    return SimpleNamespace(
        GlooExchange=GlooExchange,
        LAYOUTS=LAYOUTS,
        full_state=full_state,
        spread=spread,
        gathered=gathered,
        is_equal=is_equal,
        zeroed=zeroed,
        save=save,
    )


@pytest.fixture
def solo(tmp_path: Path) -> Callable[..., Checkpoints]:
    """Makes the Checkpoints of a one-process run in `tmp_path`."""
    return lambda keep=9: Checkpoints(LocalStore(tmp_path), SoloExchange(), keep=keep)
