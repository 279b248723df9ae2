"""Sharded state -> boxes: what each rank holds, and which of equal copies it writes.

Derived by every rank alone, without communication. Knows nothing of files.
"""

import itertools
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.placement_types import Placement, _StridedShard

from .dtypes import dtype_name, num_bytes

_RESERVED = "__metadata__"
State = Mapping[str, torch.Tensor]
Box = tuple[tuple[int, ...], tuple[int, ...]]


class Boxed(Protocol):
    """Whatever says which box of which tensor it is."""

    @property
    def name(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    @property
    def global_shape(self) -> tuple[int, ...]: ...

    @property
    def offsets(self) -> tuple[int, ...]: ...

    @property
    def shape(self) -> tuple[int, ...]: ...


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


Local = tuple[Chunk, torch.Tensor]
"""A box that this rank holds, and the local tensor that is it."""


def local_chunks(state: State) -> list[Local]:
    """The boxes that this rank holds, by name, each with the local tensor that is it.

    The tensors share their memory with the state. An empty shard is left out, unless the whole
    tensor is empty: then every rank holds it.

    Raises:
        ValueError: for a dtype or a placement that a checkpoint cannot hold.
    """
    found = []
    for name in sorted(state):
        chunk, local = _local(name, state[name])
        if math.prod(chunk.shape) or not math.prod(chunk.global_shape):
            found.append((chunk, local))
    return found


def _local(name: str, tensor: torch.Tensor) -> Local:
    if name == _RESERVED:
        raise ValueError(
            f"A tensor of the state is named {_RESERVED}, but safetensors keeps that name for "
            "itself: rename it."
        )
    local, whole = local_tensor(tensor), tuple(tensor.shape)
    offsets, shape = (0,) * len(whole), whole
    if isinstance(tensor, DTensor):
        offsets, shape = _dtensor_box(name, tensor, local)
    chunk = Chunk(
        name=name,
        dtype=dtype_name(tensor.dtype),
        global_shape=whole,
        offsets=offsets,
        shape=shape,
    )
    return chunk, local


def part_box(
    shape: Sequence[int],
    mesh_shape: Sequence[int],
    coordinate: Sequence[int],
    placements: Sequence[Placement],
) -> Box | None:
    """Offsets and shape of the part that lies at a mesh coordinate; None if it is not one box.

    Shards of one tensor dim cut it one after the other, from the left of the mesh to the right,
    each cut as `torch.chunk` makes it. A `_StridedShard` takes its turn later: after those to its
    right that make `split_factor` pieces, as FSDP2 cuts what tensor parallelism has cut before
    (torch/distributed/fsdp/_fully_shard/_fsdp_param.py). torch's own arithmetic
    (`compute_local_shape_and_global_offset`) follows the strides instead, and with uneven pieces
    names parts that FSDP2 has not made.
    """
    turns: dict[int, list[tuple[int, int]]] = {}
    axes = list(zip(mesh_shape, coordinate, placements, strict=True))
    for size, index, placement in reversed(axes):
        if type(placement) is Replicate:
            continue
        # Exact types: a relative that torch may add need not be one box.
        if type(placement) not in (Shard, _StridedShard):
            return None
        assert isinstance(placement, Shard | _StridedShard)
        order = turns.setdefault(placement.dim, [])
        if size == 1:
            continue
        pieces = [1, *itertools.accumulate((parts for parts, _ in order), operator.mul)]
        factor = getattr(placement, "split_factor", 1)
        if factor not in pieces:
            return None
        order.insert(pieces.index(factor), (size, index))
    offsets, lengths = [0] * len(shape), list(shape)
    for dim, order in turns.items():
        for parts, index in order:
            longest = -(-lengths[dim] // parts)
            start = min(longest * index, lengths[dim])
            lengths[dim] = min(longest, lengths[dim] - start)
            offsets[dim] += start
    return tuple(offsets), tuple(lengths)


def plan_writes(
    state: State, chunks: Iterable[Chunk], *, rank: int, holders: Sequence[int]
) -> set[str]:
    """Names whose box this rank writes, out of those it holds.

    Of copies equal on several ranks exactly one rank is named. The ranks along a DTensor's
    Replicate axes form a group, all `holders` do for a plain tensor; within each group the
    largest box goes to the rank with the fewest bytes so far (longest-processing-time greedy), so
    every member comes to the same plan without asking.

    Args:
        chunks: of the state, as `local_chunks` answers them.
        rank: this rank, global.
        holders: global ranks whose states have the same names as this one's, sorted.
    """
    loads: dict[tuple[int, ...], list[int]] = {}
    groups: dict[object, tuple[int, ...]] = {}
    mine = set()
    for chunk in sorted(chunks, key=lambda chunk: (-chunk.num_bytes, chunk.name)):
        layout = _copies_key(state[chunk.name])
        if layout not in groups:  # torch works a mesh's ranks out anew at each look
            groups[layout] = _replica_group(state[chunk.name], holders)
        group = groups[layout]
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
    return math.prod(size for size, placement in sizes if not placement.is_replicate())


def local_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part, sharing its memory, outside of autograd."""
    if isinstance(tensor, DTensor):
        # detach() of the DTensor first would take nine times as long.
        with torch.no_grad():
            tensor = tensor.to_local()
    return tensor.detach()


def _dtensor_box(name: str, tensor: DTensor, local: torch.Tensor) -> Box:
    mesh, shape = tensor.device_mesh, tuple(tensor.shape)
    here = mesh.get_coordinate()
    if here is None:
        raise ValueError(
            f"Tensor {name} of the state lies on a mesh without this rank, but each rank may list "
            "only what it holds: leave it out of this rank's state."
        )
    box = part_box(shape, mesh.shape, here, tensor.placements)
    if box is None:
        raise ValueError(
            f"Tensor {name} of the state has placements {tensor.placements} on a mesh of "
            f"{tuple(mesh.shape)}, but checkpoints hold parts that are one box, as Replicate, "
            "Shard and FSDP's strided shards cut them: redistribute it first."
        )
    if not math.prod(shape):
        return (0,) * len(shape), shape
    if math.prod(box[1]) != local.numel() or (local.numel() and box[1] != tuple(local.shape)):
        raise ValueError(
            f"Tensor {name} of the state has a local part of shape {tuple(local.shape)}, but its "
            f"placements {tensor.placements} leave {box[1]} to this rank: make it by "
            "distribute_tensor or by FSDP."
        )
    return box


def _copies_key(tensor: torch.Tensor) -> object:
    """Equal for tensors whose copies lie on the same ranks."""
    if not isinstance(tensor, DTensor):
        return None
    return tensor.device_mesh, tensor.placements, not math.prod(tensor.shape)


def _replica_group(tensor: torch.Tensor, holders: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(tensor, DTensor):
        return tuple(holders)
    ranks = tensor.device_mesh.mesh
    if not math.prod(tensor.shape):
        return tuple(ranks.flatten().tolist())
    here = tensor.device_mesh.get_coordinate() or ()
    along = tuple(
        slice(None) if placement.is_replicate() else index
        for placement, index in zip(tensor.placements, here, strict=True)
    )
    return tuple(ranks[along].flatten().tolist())
