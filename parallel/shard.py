"""FSDP2 over a module's units, with gradients as exact sums, and its switches between steps.

The same wrapper serves one rank, sharding, replicas and both; owns no initial value.
"""

from collections.abc import Iterator
from fnmatch import fnmatchcase

from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard

from .mesh import Role, Topology
from .plan import Plan, has_forward, owns_its_parameters
from .precision import Policy


def apply_shard(
    module: nn.Module,
    plan: Plan,
    topology: Topology,
    policy: Policy,
    *,
    reshard_after_forward: bool,
) -> None:
    """Shards each unit of the plan and the root in place; nothing is communicated.

    After a backward every gradient is the sum over all ranks, never the mean.

    Raises:
        ValueError: a unit or a parameter that cannot be sharded, by name.
    """
    for name, parameter in module.named_parameters():
        if parameter.dim() == 0:
            raise ValueError(
                f"model parameter {name}: found shape (), needed one dimension or more; "
                "make it torch.nn.Parameter of shape (1,)"
            )
    mesh, mixed = topology.mesh(Role.PARAM), policy.mixed_precision()
    # A unit inside another goes first: FSDP leaves to the outer one what no inner one has taken.
    for unit in sorted(find_units(module, plan), key=lambda name: -name.count(".")):
        fully_shard(
            module.get_submodule(unit),
            mesh=mesh,
            mp_policy=mixed,
            reshard_after_forward=reshard_after_forward,
        )
    # The root's own parameters are needed again as soon as backward begins.
    fully_shard(module, mesh=mesh, mp_policy=mixed, reshard_after_forward=False)
    for wrapped in _wrapped(module):
        # Both: a factor alone asks for PREMUL_SUM, which gloo has not, and the default averages.
        wrapped.set_gradient_divide_factor(1.0)
        wrapped.set_force_sum_reduction_for_comms(True)


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
    for name in found:
        _check_unit(module, name)
    return list(found)


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
    for wrapped in _wrapped(module):
        wrapped.reshard()


def _wrapped(module: nn.Module) -> Iterator[FSDPModule]:
    return (child for child in module.modules() if isinstance(child, FSDPModule))
