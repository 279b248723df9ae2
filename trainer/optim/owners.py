"""Sharded tensors of one mesh, each made whole on one rank of it and cut up again.

All tensors travel together: one all-to-all a mesh axis there, one back. Nothing is made whole on
more ranks than one.
"""

import itertools
import math
from collections.abc import Sequence
from typing import final

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Placement

from ...parallel import held_indices, is_sharded

Coordinate = tuple[int, ...]


@final
class Owners:
    """Who owns which of several tensors with the same mesh and placements.

    Owners are dealt so that the cost that each rank of the mesh has to bear is about equal (the
    longest processing time goes first, to who has least), by each rank alone.

    Args:
        shapes: full shapes of the tensors.
        costs: of each tensor, in any unit.
    """

    def __init__(
        self,
        mesh: DeviceMesh,
        placements: Sequence[Placement],
        shapes: Sequence[torch.Size],
        costs: Sequence[float],
    ) -> None:
        here = mesh.get_coordinate()
        assert here is not None, "a rank holds only parameters of meshes that it is in"
        self.mesh, self.here = mesh, tuple(here)
        self.shapes = shapes
        self.sharded = [axis for axis, one in enumerate(placements) if is_sharded(one)]
        self.owners = _deal(mesh.shape, costs)
        everywhere = list(itertools.product(*map(range, mesh.shape)))
        self._indices = [
            {at: held_indices(shape, mesh.shape, placements, at) for at in everywhere}
            for shape in shapes
        ]

    @property
    def mine(self) -> list[int]:
        """Indices of the tensors that this rank owns."""
        return [index for index, owner in enumerate(self.owners) if owner == self.here]

    def gather(self, shards: Sequence[Tensor]) -> dict[int, Tensor]:
        """Collective over the mesh: the full tensors that this rank owns, by index; blocks.

        Args:
            shards: this rank's part of every tensor, all of one dtype.
        """
        held = {index: shard.reshape(-1) for index, shard in enumerate(shards)}
        for axis in reversed(range(self.mesh.ndim)):
            if axis in self.sharded:
                held = self._collect(held, axis)
            held = {i: flat for i, flat in held.items() if self._is_mine(i, axis)}
        return {index: self._joined(index, flat) for index, flat in held.items()}

    def scatter(self, full: dict[int, Tensor], like: Sequence[Tensor]) -> list[Tensor]:
        """Collective over the mesh: each rank's part of every tensor, from their owners; blocks.

        Args:
            full: the tensors that this rank owns, by index.
            like: this rank's parts as `gather` took them: their shapes, dtype and device.
        """
        held = {index: self._cut(index, tensor) for index, tensor in full.items()}
        empty = like[0].new_empty(0)
        for axis in range(self.mesh.ndim):
            held = self._spread(held, axis, empty)
        return [held[index].view_as(shard) for index, shard in enumerate(like)]

    def _is_mine(self, index: int, axis: int) -> bool:
        return self.owners[index][axis] == self.here[axis]

    def _sources(self, axis: int, place: int) -> list[Coordinate]:
        """Whose parts the rank at `place` of an axis holds while that axis is the next: its own,
        and those of the sharded axes after it."""
        ranges = [
            range(size) if other > axis and other in self.sharded else (self.here[other],)
            for other, size in enumerate(self.mesh.shape)
        ]
        ranges[axis] = (place,)
        return list(itertools.product(*ranges))

    def _numel(self, index: int, axis: int, place: int) -> int:
        parts = (self._indices[index][at] for at in self._sources(axis, place))
        return sum(math.prod(map(len, part)) for part in parts)

    def _collect(self, held: dict[int, Tensor], axis: int) -> dict[int, Tensor]:
        """Along one axis: everybody's parts of a tensor, to the place of its owner."""
        size = self.mesh.size(axis)
        sent = [[i for i in held if self.owners[i][axis] == place] for place in range(size)]
        mine = sent[self.here[axis]]
        received = (
            self._exchange(
                [[held[index] for index in indices] for indices in sent],
                [[self._numel(index, axis, place) for index in mine] for place in range(size)],
                axis,
                like=next(iter(held.values())),
            )
            if held
            else []
        )
        return {
            index: torch.cat([parts[turn] for parts in received]) for turn, index in enumerate(mine)
        }

    def _spread(self, held: dict[int, Tensor], axis: int, empty: Tensor) -> dict[int, Tensor]:
        """Along one axis: from the place of a tensor's owner to everybody their parts of it."""
        size, later = self.mesh.size(axis), range(axis + 1, self.mesh.ndim)
        near = [
            index
            for index, owner in enumerate(self.owners)
            if all(owner[other] == self.here[other] for other in later)
        ]
        come = [[i for i in near if self.owners[i][axis] == place] for place in range(size)]
        if not near:
            return {}
        sizes = {
            index: [self._numel(index, axis, place) for place in range(size)] for index in near
        }
        if axis in self.sharded:
            cut = {index: flat.split(sizes[index]) for index, flat in held.items()}
        else:
            cut = {index: (flat,) * size for index, flat in held.items()}
        received = self._exchange(
            [[cut[index][place] for index in sorted(held)] for place in range(size)],
            [[sizes[index][self.here[axis]] for index in indices] for indices in come],
            axis,
            like=empty,
        )
        pairs = zip(come, received, strict=True)
        return {
            index: part
            for indices, parts in pairs
            for index, part in zip(indices, parts, strict=True)
        }

    def _exchange(
        self, sent: list[list[Tensor]], numels: list[list[int]], axis: int, *, like: Tensor
    ) -> list[list[Tensor]]:
        """One all-to-all along an axis: lists of flat tensors for each place, and from each."""
        group = self.mesh.get_group(axis)
        flat = [part for parts in sent for part in parts]
        outgoing = torch.cat(flat) if flat else like.new_empty(0)
        lengths = [sum(part.numel() for part in parts) for parts in sent]
        counts = [sum(row) for row in numels]
        incoming = outgoing.new_empty(sum(counts))
        dist.all_to_all_single(incoming, outgoing, counts, lengths, group=group)
        return [
            list(part.split(row)) if row else []
            for part, row in zip(incoming.split(counts), numels, strict=True)
        ]

    def _parts(self, index: int) -> list[tuple[Tensor, ...]]:
        """The indices of all different shards in the order in which an owner holds them."""
        ranges = [
            range(size) if axis in self.sharded else (self.here[axis],)
            for axis, size in enumerate(self.mesh.shape)
        ]
        return [self._indices[index][at] for at in itertools.product(*ranges)]

    def _joined(self, index: int, flat: Tensor) -> Tensor:
        full = flat.new_empty(self.shapes[index])
        parts = self._parts(index)
        shapes = [tuple(map(len, part)) for part in parts]
        pieces = flat.split([math.prod(shape) for shape in shapes])
        for part, shape, piece in zip(parts, shapes, pieces, strict=True):
            full[_grid(part, flat.device)] = piece.view(shape)
        return full

    def _cut(self, index: int, full: Tensor) -> Tensor:
        parts = self._parts(index)
        return torch.cat([full[_grid(part, full.device)].reshape(-1) for part in parts])


def _grid(indices: tuple[Tensor, ...], device: torch.device) -> tuple[Tensor, ...]:
    """Indices of each dim so that indexing with all of them takes their outer product."""
    return torch.meshgrid(*(held.to(device) for held in indices), indexing="ij")


def _deal(mesh_shape: Sequence[int], costs: Sequence[float]) -> list[Coordinate]:
    places = list(itertools.product(*map(range, mesh_shape)))
    loads = dict.fromkeys(places, 0.0)
    owners = [places[0]] * len(costs)
    for index in sorted(range(len(costs)), key=lambda index: -costs[index]):
        owners[index] = min(places, key=lambda place: loads[place])
        loads[owners[index]] += costs[index]
    return owners
