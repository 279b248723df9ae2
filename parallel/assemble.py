"""The one order in which a module is built, sharded, materialised and given its initial values.

Ends by checking what came out; what goes on at each stage is owned by the other files.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from .initialise import canonical_name, derived_seed, initialise, retie
from .mesh import Role, Topology
from .plan import Plan
from .precision import Policy
from .shard import apply_shard


def assemble(
    build: Callable[[], nn.Module],
    *,
    plan: Plan | None,
    topology: Topology,
    policy: Policy,
    device: torch.device,
    seed: int,
    reshard_after_forward: bool = True,
) -> nn.Module:
    """Builds the sharded model on `device`; every rank calls it, nothing is communicated.

    With initial values in the plan the module is never whole anywhere: it is built on meta,
    sharded, and filled name by name; each submodule that holds buffers defines
    `rebuild_buffers()`, which computes them anew. Otherwise `build` runs on the CPU with the same
    seed on every rank and leaves the caller's random state as it was.

    Raises:
        ValueError: the plan and the module do not fit, or a tensor would stay without a value.
    """
    plan = plan or Plan()
    module = _on_meta(build) if plan.initial else _on_cpu(build, seed)
    retie(module, plan)
    _to_master(module, policy.master)
    if not plan.initial:
        module.to(device)
    apply_shard(module, plan, topology, policy, reshard_after_forward=reshard_after_forward)
    if plan.initial:
        _materialise(module, plan, device, seed)
    _check(module, topology)
    return module


def _on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return build()


def _on_cpu(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    # The CPU generator alone: torch.manual_seed would also move CUDA's, which is not restored.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(derived_seed(seed, "build"))
        return build()


def _to_master(module: nn.Module, dtype: torch.dtype) -> None:
    for parameter in module.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


def _materialise(module: nn.Module, plan: Plan, device: torch.device, seed: int) -> None:
    # to_empty forgets the values of all buffers, so each needs somebody who computes it anew.
    for path, owner in module.named_modules():
        names = [name for name, _ in owner.named_buffers(path, recurse=False)]
        if names and not hasattr(owner, "rebuild_buffers"):
            raise ValueError(
                f"model buffer {names[0]}: found no value after building on meta, needed one; "
                f"define rebuild_buffers() on {type(owner).__name__}"
            )
    module.to_empty(device=device)
    with torch.device(device):
        for owner in module.modules():
            if rebuild := getattr(owner, "rebuild_buffers", None):
                rebuild()
    initialise(module, plan, seed=seed)


def _check(module: nn.Module, topology: Topology) -> None:
    mesh, seen = topology.mesh(Role.PARAM), set[str]()
    for name, parameter in module.named_parameters():
        if not isinstance(parameter, DTensor) or parameter.device_mesh != mesh:
            raise ValueError(
                f"model parameter {name}: found {type(parameter).__name__}, needed a DTensor on "
                f"the mesh {mesh}; let build return a plain module"
            )
        if canonical_name(name) in seen:
            raise ValueError(
                f"model parameter {name}: found a second {canonical_name(name)}, needed names "
                "that differ without wrappers; rename one of the modules"
            )
        seen.add(canonical_name(name))
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_meta:
            raise ValueError(
                f"model tensor {name}: found it on meta, needed it on a device; let build or "
                "rebuild_buffers() give it a value"
            )
