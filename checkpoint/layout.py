"""Sharded state -> boxes: what each rank holds, and which of equal copies it writes.

Derived by every rank alone, without communication. Knows nothing of files.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from .dtypes import dtype_name, num_bytes

_RESERVED = "__metadata__"
State = Mapping[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """One box of a tensor: `shape` elements from `offsets` of a tensor of `global_shape`."""

    name: str
    dtype: str
    global_shape: tuple[int, ...]
    offsets: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return num_bytes(self.dtype, self.shape)


def local_chunks(state: State) -> list[tuple[Chunk, torch.Tensor]]:
    """The boxes that this rank holds, by name, each with the local tensor that is it.

    The tensors share their memory with the state. An empty shard is left out, unless the whole
    tensor is empty: then every rank holds it.

    Raises:
        ValueError: for a dtype or a placement that a checkpoint cannot hold.
    """
    found = []
    for name in sorted(state):
        chunk = _chunk(name, state[name])
        if math.prod(chunk.shape) or not math.prod(chunk.global_shape):
            found.append((chunk, local_tensor(state[name])))
    return found


def plan_writes(state: State, *, rank: int, size: int) -> set[str]:
    """Names whose box this rank writes, out of those it holds.

    Of copies equal on several ranks exactly one rank is named. The ranks along a DTensor's
    Replicate axes form a group, all `size` ranks do for a plain tensor; within each group the
    largest box goes to the rank with the fewest bytes so far (longest-processing-time greedy), so
    every member comes to the same plan without asking. Ranks are global.
    """
    loads: dict[tuple[int, ...], list[int]] = {}
    mine = set()
    held = [chunk for chunk, _ in local_chunks(state)]
    for chunk in sorted(held, key=lambda chunk: (-chunk.num_bytes, chunk.name)):
        group = _replica_group(state[chunk.name], size)
        load = loads.setdefault(group, [0] * len(group))
        turn = load.index(min(load))
        load[turn] += chunk.num_bytes
        if group[turn] == rank:
            mine.add(chunk.name)
    return mine


def num_boxes(tensor: torch.Tensor) -> int:
    """How many boxes the tensor is cut into over all ranks, empty ones included."""
    if not isinstance(tensor, DTensor):
        return 1
    sizes = zip(tensor.device_mesh.shape, tensor.placements, strict=True)
    return math.prod(size for size, placement in sizes if placement.is_shard())


def local_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part, sharing its memory, outside of autograd."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _chunk(name: str, tensor: torch.Tensor) -> Chunk:
    if name == _RESERVED:
        raise ValueError(
            f"A tensor of the state is named {_RESERVED}, but safetensors keeps that name for "
            "itself: rename it."
        )
    shape, offsets = tuple(tensor.shape), (0,) * tensor.dim()
    if isinstance(tensor, DTensor):
        shape, offsets = _local_box(name, tensor)
    if not math.prod(tensor.shape):
        shape, offsets = tuple(tensor.shape), (0,) * tensor.dim()
    return Chunk(
        name=name,
        dtype=dtype_name(tensor.dtype),
        global_shape=tuple(tensor.shape),
        offsets=offsets,
        shape=shape,
    )


def _local_box(name: str, tensor: DTensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    # Exact types: torch's strided shard is a relative of Shard, but its part need not be one box.
    if any(type(placement) not in (Shard, Replicate) for placement in tensor.placements):
        raise ValueError(
            f"Tensor {name} of the state has placements {tensor.placements}, but checkpoints hold "
            "Shard and Replicate: redistribute it first."
        )
    if tensor.device_mesh.get_coordinate() is None:
        raise ValueError(
            f"Tensor {name} of the state lies on a mesh without this rank, but each rank may list "
            "only what it holds: leave it out of this rank's state."
        )
    shape, offsets = compute_local_shape_and_global_offset(
        tensor.shape, tensor.device_mesh, tensor.placements
    )
    return tuple(shape), tuple(offsets)


def _replica_group(tensor: torch.Tensor, size: int) -> tuple[int, ...]:
    if not isinstance(tensor, DTensor):
        return tuple(range(size))
    ranks = tensor.device_mesh.mesh
    if not math.prod(tensor.shape):
        return tuple(ranks.flatten().tolist())
    here = tensor.device_mesh.get_coordinate() or ()
    along = tuple(
        slice(None) if placement.is_replicate() else index
        for placement, index in zip(tensor.placements, here, strict=True)
    )
    return tuple(ranks[along].flatten().tolist())
