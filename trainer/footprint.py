"""How much memory a layout takes on a rank, worked out on `meta` in a simulated world: no weight is
made and no other process is needed."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from ..parallel import Degrees, Plan, Policy, Topology, assemble, local_part, simulated_world
from .config import RunConfig

META = torch.device("meta")
# Moments that AdamW keeps of each parameter.
_MOMENTS = 2


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of one rank, without activations."""

    parameters: int
    """Shards at rest, in the master dtype."""
    gradients: int
    """As the parameters, in the dtype in which they are reduced."""
    optimizer: int
    """AdamW's two moments, and the average of the weights where one is kept."""
    gathered: int
    """What FSDP holds whole at once: the root's parameters and the two largest blocks', or all of
    them where they stay gathered; in the compute dtype, with their unreduced gradients."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.parameters + self.gradients + self.optimizer + self.gathered


def footprint(
    config: RunConfig,
    build: Callable[[], nn.Module],
    plan: Plan,
    *,
    rank: int,
    world_size: int,
) -> Footprint:
    """What `rank` of `world_size` holds of the model under the configured degrees.

    Raises:
        ValueError: degrees, plan and model do not fit.
    """
    degrees, policy = Degrees.resolve(config.parallel, world_size), Policy.of(config.precision)
    with simulated_world(rank, world_size):
        module = assemble(
            build,
            plan=plan,
            topology=Topology.create(degrees, "cpu"),
            policy=policy,
            device=META,
            seed=config.train.seed,
            parallel=config.parallel,
            memory=config.memory,
        )
        held = [local_part(parameter) for parameter in module.parameters()]
        elements = sum(tensor.numel() for tensor in held)
        keeps = not config.parallel.reshard_after_forward or degrees.pipeline > 1
        averages = elements * torch.float32.itemsize if config.optim.ema_decay else 0
        return Footprint(
            parameters=elements * policy.master.itemsize,
            gradients=elements * policy.reduce.itemsize,
            optimizer=_MOMENTS * elements * policy.master.itemsize + averages,
            gathered=_gathered(module, keeps) * 2 * policy.compute.itemsize,
        )


def fullest_rank(
    config: RunConfig, build: Callable[[], nn.Module], plan: Plan, *, world_size: int
) -> Footprint:
    """The footprint of the rank that holds most: of each pipeline place the first rank is looked
    at, whose shards are the largest.

    Raises:
        ValueError: degrees, plan and model do not fit.
    """
    places = Degrees.resolve(config.parallel, world_size).pipeline
    firsts = range(0, world_size, world_size // places)
    found = (footprint(config, build, plan, rank=rank, world_size=world_size) for rank in firsts)
    return max(found, key=lambda one: one.total)


def _gathered(module: nn.Module, keeps: bool) -> int:
    """Elements that are whole at once on a rank."""
    units = [child for child in module.modules() if isinstance(child, FSDPModule)]
    sizes, roots = [], 0
    for unit in units:
        nested = (one for one in unit.modules() if one is not unit)
        inner = {p for one in nested if isinstance(one, FSDPModule) for p in one.parameters()}
        own = sum(_unsharded(p) for p in unit.parameters() if p not in inner)
        if any(unit is not other and unit in set(other.modules()) for other in units):
            sizes.append(own)
        else:
            roots += own
    return roots + sum(sizes if keeps else sorted(sizes)[-2:])


def _unsharded(parameter: Tensor) -> int:
    """Elements of a parameter once FSDP has gathered it: those of this rank's tensor part."""
    if not isinstance(parameter, DTensor):
        return parameter.numel()
    mesh, elements = parameter.device_mesh, parameter.numel()
    names = mesh.mesh_dim_names or ()
    for size, name, placement in zip(mesh.shape, names, parameter.placements, strict=True):
        if name in ("tensor", "expert") and placement.is_shard():
            elements //= size
    return elements
