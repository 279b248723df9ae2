"""Degrees of parallelism and the meshes and groups that they make, handed out by role.

Owns no global: a topology is a value and dies with its process group.
"""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import final

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from .config import ParallelConfig

REPLICATE, SHARD = "replicate", "shard"


class Role(StrEnum):
    """What ranks meet for: to share samples, sum a loss, hold parameters, and so on."""

    DATA = "data"
    LOSS = "loss"
    PARAM = "param"
    STAGE = "stage"
    TENSOR = "tensor"
    EXPERT = "expert"


@dataclass(frozen=True, slots=True)
class Degrees:
    """How many ranks each axis has, outermost first, with nothing left to fill in."""

    replicate: int
    shard: int

    @classmethod
    def resolve(cls, config: ParallelConfig, world_size: int) -> "Degrees":
        """Fills `shard=-1` in.

        Raises:
            ValueError: the degrees do not make up exactly `world_size` ranks.
        """
        if config.shard == -1:
            shard, rest = divmod(world_size, config.replicate)
            if rest or not shard:
                raise ValueError(
                    f"parallel.replicate = {config.replicate}: found {world_size} ranks, needed a "
                    f"multiple of {config.replicate}; start {config.replicate * (shard + 1)} ranks "
                    "or set parallel.replicate=1"
                )
            return cls(config.replicate, shard)
        needed = config.replicate * config.shard
        if needed != world_size:
            raise ValueError(
                f"parallel.replicate x parallel.shard = {config.replicate} x {config.shard}: found "
                f"{world_size} ranks, needed {needed}; start {needed} ranks or set "
                "parallel.shard=-1"
            )
        return cls(config.replicate, config.shard)

    @property
    def data_count(self) -> int:
        """Number of ranks that each read samples of their own."""
        return self.replicate * self.shard


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """One process group laid out by degrees, as this rank sees it."""

    degrees: Degrees
    rank: int
    world_size: int
    control: dist.ProcessGroup
    """gloo over the whole world, for votes and bookkeeping; never carries gradients."""
    param_mesh: DeviceMesh
    data_mesh: DeviceMesh | None

    @classmethod
    def create(
        cls, degrees: Degrees, device_type: str, *, timeout: timedelta = timedelta(minutes=10)
    ) -> "Topology":
        """Collective: makes every group of the world, in the same order on all ranks.

        Args:
            device_type: `cpu` or `cuda`, where the sharded tensors live.
            timeout: deadline of one collective on the groups made here. The default group has
                its own, and torch's is half an hour where none is passed on.
        """
        world_size = dist.get_world_size()
        assert degrees.data_count == world_size, (degrees, world_size)
        control = dist.new_group(backend="gloo", timeout=timeout, group_desc="control")
        world = dist.group.WORLD
        assert control is not None
        assert world is not None
        flat = world_size > 1
        return cls(
            degrees=degrees,
            rank=dist.get_rank(),
            world_size=world_size,
            control=control,
            param_mesh=_param_mesh(degrees, device_type, world, timeout),
            data_mesh=_flat_mesh(world, device_type, "data") if flat else None,
        )

    def mesh(self, role: Role) -> DeviceMesh | None:
        """Returns the mesh of a role, None where its size is 1.

        PARAM always answers, for sharding goes on at degree 1 too: `("shard",)`, or
        `("replicate", "shard")` where there is more than one copy.
        """
        if role is Role.PARAM:
            return self.param_mesh
        return self.data_mesh if role in (Role.DATA, Role.LOSS) else None

    def group(self, role: Role) -> dist.ProcessGroup | None:
        """Returns the group over all ranks of a role, None where there is only this one."""
        if self.data_mesh is None or role not in (Role.DATA, Role.LOSS, Role.PARAM):
            return None
        return self.data_mesh.get_group()

    @property
    def data_index(self) -> int:
        """Which of the `data_count` readers this rank is."""
        at = self.coordinates()
        return at[REPLICATE] * self.degrees.shard + at[SHARD]

    @property
    def data_count(self) -> int:
        """Number of ranks that each read samples of their own."""
        return self.degrees.data_count

    def coordinates(self) -> dict[str, int]:
        """Returns this rank's place on every axis, 0 on axes of size 1."""
        names, places = self.param_mesh.mesh_dim_names, self.param_mesh.get_coordinate()
        assert names is not None
        assert places is not None
        return {REPLICATE: 0, SHARD: 0} | dict(zip(names, places, strict=True))

    def describe(self) -> dict[str, int]:
        """Returns the degrees by name, as a manifest keeps them."""
        return {REPLICATE: self.degrees.replicate, SHARD: self.degrees.shard}


def _flat_mesh(group: dist.ProcessGroup, device_type: str, name: str) -> DeviceMesh:
    return DeviceMesh.from_group(group, device_type, mesh_dim_names=(name,))


def _param_mesh(
    degrees: Degrees, device_type: str, world: dist.ProcessGroup, timeout: timedelta
) -> DeviceMesh:
    if degrees.replicate == 1:
        return _flat_mesh(world, device_type, SHARD)
    grid = torch.arange(degrees.data_count).view(degrees.replicate, degrees.shard)
    # init_device_mesh would leave these groups with torch's deadline instead of ours.
    groups = [
        dist.new_subgroups_by_enumeration(ranks.tolist(), timeout=timeout)[0]
        for ranks in (grid.t(), grid)
    ]
    return DeviceMesh.from_group(groups, device_type, grid, mesh_dim_names=(REPLICATE, SHARD))
