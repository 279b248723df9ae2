"""Degrees of parallelism and the meshes and groups that they make, handed out by role.

Owns no global: a topology is a value and dies with its process group.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import final

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from .config import ParallelConfig

REPLICATE, SHARD, TENSOR, EXPERT = "replicate", "shard", "tensor", "expert"
# Outermost first: what speaks most lies on ranks that are next to one another.
AXES = ("pipeline", REPLICATE, SHARD, "context", TENSOR)


class Role(StrEnum):
    """What ranks meet for: to share samples, sum a loss, hold parameters, and so on."""

    DATA = "data"
    LOSS = "loss"
    PARAM = "param"
    STAGE = "stage"
    CONTEXT = "context"
    TENSOR = "tensor"
    EXPERT = "expert"


# The axes along which the ranks of a role differ.
_ALONG = {
    Role.DATA: (REPLICATE, SHARD),
    Role.LOSS: (REPLICATE, SHARD, "context"),
    Role.PARAM: (REPLICATE, SHARD, "context"),
    Role.STAGE: ("pipeline",),
    Role.CONTEXT: ("context",),
    Role.TENSOR: (TENSOR,),
}


@final
@dataclass(frozen=True, slots=True)
class Degrees:
    """How many ranks each axis has, with nothing left to fill in.

    `expert` is no axis of its own: the ranks of shard x context hold the experts among them.
    """

    replicate: int
    shard: int
    pipeline: int = 1
    context: int = 1
    tensor: int = 1
    expert: int = 1

    @classmethod
    def resolve(cls, config: ParallelConfig, world_size: int) -> "Degrees":
        """Fills `shard=-1` in.

        Raises:
            ValueError: the degrees do not make up exactly `world_size` ranks, or `expert` does not
                divide the ranks that share the parameters.
        """
        degrees = cls(
            config.replicate,
            _shard(config, world_size),
            pipeline=config.pipeline,
            context=config.context,
            tensor=config.tensor,
            expert=config.expert,
        )
        holders = degrees.shard * degrees.context
        if holders % config.expert:
            nearest = max(n for n in range(1, config.expert) if holders % n == 0)
            raise ValueError(
                f"parallel.expert: found {config.expert}, needed a divisor of parallel.shard x "
                f"parallel.context = {holders}, whose ranks share the experts; set "
                f"parallel.expert={nearest}"
            )
        return degrees

    @property
    def data_count(self) -> int:
        """Number of ranks that each read samples of their own."""
        return self.replicate * self.shard

    @property
    def world_size(self) -> int:
        """Number of all ranks."""
        world_size: int = math.prod(getattr(self, axis) for axis in AXES)
        return world_size

    def describe(self) -> dict[str, int]:
        """Returns them by name, as a manifest keeps them: those above 1, replicate and shard."""
        named = {axis: getattr(self, axis) for axis in (*AXES, EXPERT)}
        return {axis: n for axis, n in named.items() if n > 1 or axis in (REPLICATE, SHARD)}


def _shard(config: ParallelConfig, world_size: int) -> int:
    others = {axis: getattr(config, axis) for axis in AXES if axis != SHARD}
    shown = {axis: n for axis, n in others.items() if n > 1} or {REPLICATE: 1}
    fixed: int = math.prod(others.values())
    names = " x ".join(f"parallel.{axis}" for axis in shown)
    product = " x ".join(map(str, shown.values()))
    if config.shard == -1:
        shard, rest = divmod(world_size, fixed)
        if rest or not shard:
            raise ValueError(
                f"{names} = {product}: found {world_size} ranks, needed a multiple of {fixed}; "
                f"start {fixed * (shard + 1)} ranks or set {_undone(shown)}"
            )
        return shard
    needed = fixed * config.shard
    if needed != world_size:
        raise ValueError(
            f"{names} x parallel.shard = {product} x {config.shard}: found {world_size} ranks, "
            f"needed {needed}; start {needed} ranks or set parallel.shard=-1"
        )
    return config.shard


def _undone(shown: dict[str, int]) -> str:
    return " ".join(f"parallel.{axis}=1" for axis in shown)


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
    """What FSDP shards over: `("shard",)`, or `("replicate", "shard")` with several copies. The
    ranks of context are part of its shard axis."""
    tensor_mesh: DeviceMesh | None = None
    expert_mesh: DeviceMesh | None = None
    """What experts lie on: `("expert",)`, or `("expert", "tensor")`."""
    expert_param_mesh: DeviceMesh | None = None
    """What FSDP shards the experts over: the ranks of `param_mesh` that hold the same ones."""
    groups: dict[Role, dist.ProcessGroup] = field(default_factory=dict)

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
        assert degrees.world_size == world_size, (degrees, world_size)
        control = dist.new_group(backend=_control_backend(), timeout=timeout, group_desc="control")
        assert control is not None
        world = init_device_mesh(device_type, (world_size,), mesh_dim_names=("world",))
        holders = degrees.shard * degrees.context
        dense = _unflatten(
            world,
            {
                "pipeline": degrees.pipeline,
                REPLICATE: degrees.replicate,
                SHARD: holders,
                TENSOR: degrees.tensor,
            },
            keep=SHARD,
            timeout=timeout,
        )
        has_tensor, copies = degrees.tensor > 1, (REPLICATE,) if degrees.replicate > 1 else ()
        expert_mesh = expert_param_mesh = None
        if degrees.expert > 1:
            sparse = _unflatten(
                world,
                {
                    "pipeline": degrees.pipeline,
                    REPLICATE: degrees.replicate,
                    "expert_shard": holders // degrees.expert,
                    EXPERT: degrees.expert,
                    TENSOR: degrees.tensor,
                },
                keep="expert_shard",
                timeout=timeout,
            )
            expert_mesh = sparse[(EXPERT, TENSOR)] if has_tensor else sparse[EXPERT]
            expert_param_mesh = sparse[(*copies, "expert_shard")]
        groups = _groups(degrees, timeout)
        # A rank that refuses its settings next may be gone while another still connects to it,
        # which would then report a broken connection in place of the refusal.
        dist.all_reduce(torch.zeros(()))
        return cls(
            degrees=degrees,
            rank=dist.get_rank(),
            world_size=world_size,
            control=control,
            param_mesh=dense[(*copies, SHARD)],
            tensor_mesh=dense[TENSOR] if has_tensor else None,
            expert_mesh=expert_mesh,
            expert_param_mesh=expert_param_mesh,
            groups=groups,
        )

    def mesh(self, role: Role) -> DeviceMesh | None:
        """Returns the mesh of a role that lays out tensors, None where its size is 1.

        PARAM always answers, for sharding goes on at degree 1 too.
        """
        laid_out = {
            Role.PARAM: self.param_mesh,
            Role.TENSOR: self.tensor_mesh,
            Role.EXPERT: self.expert_mesh,
        }
        return laid_out.get(role)

    def group(self, role: Role) -> dist.ProcessGroup | None:
        """Returns the group over all ranks of a role, None where there is only this one."""
        if role is Role.EXPERT:
            return None if self.expert_mesh is None else self.expert_mesh.get_group(EXPERT)
        return self.groups.get(role)

    @property
    def data_index(self) -> int:
        """Which of the `data_count` readers this rank is."""
        at = self.coordinates()
        return at[REPLICATE] * self.degrees.shard + at[SHARD]

    @property
    def data_count(self) -> int:
        """Number of ranks that each read samples of their own."""
        return self.degrees.data_count

    @property
    def holders(self) -> list[int]:
        """Global ranks that hold the same names of the model as this one: those of its stages."""
        size = self.world_size // self.degrees.pipeline
        first = self.rank // size * size
        return list(range(first, first + size))

    @property
    def copies(self) -> list[list[int]]:
        """As `copies_of` these degrees."""
        return copies_of(self.describe())

    def coordinates(self) -> dict[str, int]:
        """Returns this rank's place on every axis, 0 on axes of size 1."""
        places, rest = {}, self.rank
        for axis in reversed(AXES):
            rest, places[axis] = divmod(rest, getattr(self.degrees, axis))
        return {axis: places[axis] for axis in AXES}

    def describe(self) -> dict[str, int]:
        """Returns the degrees by name, as a manifest keeps them."""
        return self.degrees.describe()


def copies_of(degrees: Mapping[str, int]) -> list[list[int]]:
    """Groups of ranks that hold the same parts of the model: those along replicate. Of degrees by
    name, as `describe` says them."""
    sizes = [degrees.get(axis, 1) for axis in AXES]
    grid = torch.arange(math.prod(sizes)).view(sizes).movedim(AXES.index(REPLICATE), -1)
    found: list[list[int]] = grid.reshape(-1, degrees.get(REPLICATE, 1)).tolist()
    return found


def is_simulated() -> bool:
    """Whether the world is torch's fake one, in one process, where gloo would wait for others."""
    return str(dist.get_backend()) == "fake"


def _control_backend() -> str:
    return "fake" if is_simulated() else "gloo"


def _unflatten(
    world: DeviceMesh, sizes: dict[str, int], *, keep: str, timeout: timedelta
) -> DeviceMesh:
    """Lays the world out along the axes larger than 1, and along `keep`."""
    axes = {axis: size for axis, size in sizes.items() if size > 1 or axis == keep}
    mesh = world._unflatten(0, tuple(axes.values()), tuple(axes))
    for group in mesh.get_all_groups():  # they were made with torch's deadline
        if group is not dist.group.WORLD and not is_simulated():
            dist.distributed_c10d._set_pg_timeout(timeout, group)
    return mesh


def _groups(degrees: Degrees, timeout: timedelta) -> dict[Role, dist.ProcessGroup]:
    """Collective: a group for each role of more than one rank; roles of the same ranks share it."""
    shape = [getattr(degrees, axis) for axis in AXES]
    grid = torch.arange(degrees.world_size).view(shape)
    made: dict[Sequence[Sequence[int]], dist.ProcessGroup] = {}
    found = {}
    for role, along in _ALONG.items():
        moved = [AXES.index(axis) for axis in along]
        fixed = [dim for dim in range(len(AXES)) if dim not in moved]
        size = math.prod(shape[dim] for dim in moved)
        if size == 1:
            continue
        rows = grid.permute(*fixed, *moved).reshape(-1, size).tolist()
        key = tuple(map(tuple, rows))
        if key not in made:
            made[key] = _group(rows, timeout)
        found[role] = made[key]
    return found


def _group(rows: list[list[int]], timeout: timedelta) -> dist.ProcessGroup:
    whole: dist.ProcessGroup | None = dist.group.WORLD
    cut = dist.new_subgroups_by_enumeration(rows, timeout=timeout)[0] if len(rows) > 1 else whole
    assert isinstance(cut, dist.ProcessGroup)
    return cut
