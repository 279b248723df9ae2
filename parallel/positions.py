"""Which elements of a full tensor a rank holds, whatever mesh and placements cut it.

Derived by every rank alone, for itself or for any other; nothing is communicated.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard
from torch.distributed.tensor.placement_types import _StridedShard


def held_indices(
    shape: Sequence[int],
    mesh_shape: Sequence[int],
    placements: Sequence[Placement],
    coordinate: Sequence[int],
) -> tuple[Tensor, ...]:
    """For each dim of a full tensor the indices that the rank at a mesh coordinate holds, int64, in
    the order of its shard; their outer product is the shard. Uneven and empty shards included.

    Placements are applied as torch.chunk from left to right, but a _StridedShard, by which FSDP2
    marks that tensor parallelism cut the same dim before it, only after the axes to its right that
    make up its split factor. torch's own offsets, and its gather, apply it from left to right: that
    is the same for even shards alone.

    Raises:
        ValueError: a Partial placement, or a split factor that no axes to the right make up.
    """
    indices = []
    for dim, size in enumerate(shape):
        held = torch.arange(size)
        for axis in _order(dim, mesh_shape, placements):
            length = -(-len(held) // mesh_shape[axis])
            held = held[coordinate[axis] * length : (coordinate[axis] + 1) * length]
        indices.append(held)
    return tuple(indices)


def global_positions(tensor: Tensor) -> Tensor:
    """Places of this rank's elements in the flattened full tensor: int64, in the local shape, on
    the tensor's device."""
    if not isinstance(tensor, DTensor):
        return torch.arange(tensor.numel(), device=tensor.device).view(tensor.shape)
    mesh = tensor.device_mesh
    coordinate = mesh.get_coordinate()
    assert coordinate is not None, "a rank holds only parameters of meshes that it is in"
    indices = held_indices(tensor.shape, mesh.shape, tensor.placements, coordinate)
    local = tensor.to_local()
    positions = torch.zeros((1,) * local.ndim, dtype=torch.int64, device=local.device)
    for dim, held in enumerate(indices):
        view = [1] * local.ndim
        view[dim] = -1
        positions = positions * tensor.shape[dim] + held.to(local.device).view(view)
    return positions.view(local.shape)


def held_slices(tensor: DTensor) -> tuple[slice, ...]:
    """Where this rank's part of a DTensor lies in the full tensor, a slice a dim."""
    coordinate = tensor.device_mesh.get_coordinate()
    assert coordinate is not None, "a rank holds only parameters of meshes that it is in"
    held = held_indices(tensor.shape, tensor.device_mesh.shape, tensor.placements, coordinate)
    return tuple(slice(int(i[0]), int(i[-1]) + 1) if len(i) else slice(0) for i in held)


def local_part(tensor: Tensor) -> Tensor:
    """This rank's part of a DTensor, sharing its memory; any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def is_sharded(placement: Placement) -> bool:
    """Whether ranks along an axis hold different elements; a _StridedShard may be no Shard."""
    return isinstance(placement, Shard | _StridedShard)


def _order(dim: int, mesh_shape: Sequence[int], placements: Sequence[Placement]) -> list[int]:
    """Axes that cut a dim, the first to cut first."""
    order: list[int] = []
    for axis in reversed(range(len(placements))):
        placement = placements[axis]
        if isinstance(placement, _StridedShard):
            if placement.dim == dim:
                order.insert(_turn(placement, order, mesh_shape), axis)
        elif isinstance(placement, Shard):
            if placement.dim == dim:
                order.insert(0, axis)
        elif not isinstance(placement, Replicate):
            raise ValueError(
                f"parameter placements {tuple(placements)}: found {placement}, needed Shard or "
                "Replicate; redistribute it before the step"
            )
    return order


def _turn(placement: _StridedShard, order: Sequence[int], mesh_shape: Sequence[int]) -> int:
    pieces = 1
    for turn in range(len(order) + 1):
        if pieces == placement.split_factor:
            return turn
        pieces *= mesh_shape[order[turn]] if turn < len(order) else 1
    raise ValueError(
        f"parameter placement {placement}: found split factor {placement.split_factor}, needed the "
        f"product of the first mesh axes of {[mesh_shape[axis] for axis in order]} that shard the "
        "same dim; shard it with fully_shard after parallelize_module"
    )
