"""FSDP2 over a module's units, with gradients as exact sums, and its switches between steps.

The same wrapper serves one rank, sharding, replicas and both; owns no initial value.
"""

from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard

from .layers.experts import Experts
from .mesh import Topology
from .pipeline.cut import Absent
from .plan import Plan, has_forward, owns_its_parameters
from .precision.full import cast_borders, is_inside, present
from .precision.policy import Policy


def apply_shard(
    module: nn.Module,
    units: Sequence[str],
    topology: Topology,
    policy: Policy,
    *,
    reshard_after_forward: bool,
    full: Sequence[str] = (),
    offload: bool = False,
) -> None:
    """Shards each unit, each module that stays in full precision, and the root, in place; nothing
    is communicated.

    After a backward every gradient is the sum over all ranks, never the mean.

    Args:
        units: names of modules, as `find_units` answers them.
        full: names of modules whose parameters compute in fp32, as `full.full_names` answers them.
        offload: whether the shards live in the host's memory.

    Raises:
        ValueError: a unit or a parameter that cannot be sharded, by name.
    """
    for name, parameter in module.named_parameters():
        if parameter.dim() == 0:
            raise ValueError(
                f"model parameter {name}: found shape (), needed one dimension or more; "
                "make it torch.nn.Parameter of shape (1,)"
            )
    on_cuda = topology.param_mesh.device_type == "cuda"
    shard = partial(
        fully_shard,
        mesh=topology.param_mesh,
        shard_placement_fn=_placement(module, topology),
        # Pinned memory belongs to a driver; on a CPU the shards are in the host's memory anyhow.
        offload_policy=CPUOffloadPolicy(pin_memory=on_cuda) if offload else OffloadPolicy(),
    )
    plain, exact = policy.mixed_precision(), policy.mixed_precision(is_full=True)
    if policy.compute is torch.float32:
        full = ()
    cast_borders(module, full, policy.compute)
    # A unit inside another goes first: FSDP leaves to the outer one what no inner one has taken.
    for name in sorted({*units, *full}, key=lambda name: -name.count(".")):
        is_full = name in full or is_inside(name, full)
        # What is outside of units is needed again as soon as backward begins, like the root's own.
        frees = reshard_after_forward and (name in units or is_inside(name, units))
        for child in present(module, [name]):
            shard(child, mp_policy=exact if is_full else plain, reshard_after_forward=frees)
    shard(module, mp_policy=plain, reshard_after_forward=False)
    for _, wrapped in wrapped_modules(module):
        # Both: a factor alone asks for PREMUL_SUM, which gloo has not, and the default averages.
        wrapped.set_gradient_divide_factor(1.0)
        wrapped.set_force_sum_reduction_for_comms(True)


def _placement(module: nn.Module, topology: Topology) -> Callable[[nn.Parameter], Any] | None:
    """Where fully_shard puts each parameter: experts over the ranks that hold the same ones, all
    else over its own mesh; None where no ranks share experts."""
    mesh = topology.expert_param_mesh
    if mesh is None:
        return None
    # Here, for torch 2.11 has not got it. A unit of the experts' own inside that of their block
    # would do as well, but what its hooks do selective recomputation takes for the block's.
    from torch.distributed.fsdp._fully_shard._fsdp_common import (
        FSDPMeshInfo,
        HSDPMeshInfo,
        ShardPlacementResult,
    )

    is_replicated = mesh.ndim > 1
    info = (
        HSDPMeshInfo(mesh, shard_mesh_dim=1, replicate_mesh_dim=0)
        if is_replicated
        else FSDPMeshInfo(mesh, shard_mesh_dim=0)
    )
    experts = [child for child in module.modules() if isinstance(child, Experts)]
    shared = {parameter for child in experts for parameter in child.parameters()}

    def place(parameter: nn.Parameter) -> ShardPlacementResult | None:
        if parameter not in shared:
            return None
        # Whole experts where all ranks get as many, else rows of each: no rank is left empty.
        assert isinstance(parameter, DTensor)
        local = parameter.to_local().shape
        dim = next((dim for dim in (0, 1) if local[dim] % mesh.size(-1) == 0), 0)
        return ShardPlacementResult(placement=Shard(dim), mesh_info=info)

    return place


def find_units(module: nn.Module, plan: Plan) -> list[str]:
    """Returns the names of the modules that are units, without the root.

    Raises:
        ValueError: a glob that matches nothing, or a match that cannot be a unit.
    """
    names = [name for name, _ in module.named_modules() if name]
    found: dict[str, None] = {}
    for glob in plan.resolved(module).units or ():
        matched = [name for name in names if fnmatchcase(name, glob)]
        if not matched:
            raise ValueError(
                f"plan.units: found no module for {glob!r}, needed at least one; use names such "
                f"as {', '.join(names[:5])}"
            )
        outermost = [n for n in matched if not any(n.startswith(f"{m}.") for m in matched)]
        found.update(dict.fromkeys(outermost))
    here = [name for name in found if not isinstance(module.get_submodule(name), Absent)]
    for name in here:
        _check_unit(module, name)
    return here


def _check_unit(module: nn.Module, name: str) -> None:
    unit = module.get_submodule(name)
    if not has_forward(unit):
        raise ValueError(
            f"plan.units: found {name}, a {type(unit).__name__} without forward, needed modules "
            f"that are called; use {name}.* for its children"
        )
    if not owns_its_parameters(module, unit):
        raise ValueError(
            f"plan.units: found {name}, which shares a parameter with a module outside, needed "
            "units that own all of theirs; leave it out and the root shards it"
        )


def set_last_microbatch(module: nn.Module, is_last: bool) -> None:
    """Says before each backward of a window whether it is the window's last.

    Gradients gather in full on each rank, in the reduce dtype, and are reduced once, in the last.
    """
    assert isinstance(module, FSDPModule)
    module.set_requires_gradient_sync(is_last)
    module.set_is_last_backward(is_last)


def reshard(module: nn.Module) -> None:
    """Frees all gathered parameters, so that `module.parameters()` are the shards again.

    Call it after a forward without backward: FSDP2 keeps the root gathered until the next
    backward, and would compute with that copy even where the shards have changed since.
    """
    for _, wrapped in wrapped_modules(module):
        wrapped.reshard()


def wrapped_modules(module: nn.Module) -> Iterator[tuple[str, FSDPModule]]:
    """The modules whose parameters FSDP gathers together, by name; of a nested one's parameters
    the inner module's are not the outer one's."""
    return (
        (name, child) for name, child in module.named_modules() if isinstance(child, FSDPModule)
    )
