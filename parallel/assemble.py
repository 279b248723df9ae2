"""The one order in which a module is built, cut, sharded, materialised and given initial values.

build on meta -> stages -> float8 -> experts -> tensor -> context -> recompute -> compile ->
offload -> shard -> materialise -> initialise. Ends by checking what came out; what goes on at each
stage is owned by the other files.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from .config import ContextAttention, MemoryConfig, ParallelConfig
from .context import SequenceCut, check_sequences, cross_ranks, cut_around
from .initialise import derived_seed, initialise, retie
from .layers.experts import apply_experts
from .memory.offload import apply_offload
from .memory.overlap import overlap_tensor
from .memory.recompute import apply_compile, apply_recompute
from .mesh import Degrees, Role, Topology
from .names import canonical_name
from .pipeline.cut import check_cut, cut_stage, stage_ranks
from .pipeline.stages import Stages
from .plan import Plan
from .precision.float8 import apply_float8
from .precision.full import full_names, present
from .precision.policy import Policy
from .shard import apply_shard, find_units
from .tensor import apply_tensor, check_styles


def assemble(
    build: Callable[[], nn.Module],
    *,
    plan: Plan | None,
    topology: Topology,
    policy: Policy,
    device: torch.device,
    seed: int,
    parallel: ParallelConfig | None = None,
    memory: MemoryConfig | None = None,
    draws: bool = True,
) -> nn.Module:
    """Builds this rank's part of the model on `device`; every rank calls it.

    With initial values in the plan the module is never whole anywhere: it is built on meta,
    sharded, and filled name by name; each submodule that holds buffers defines
    `rebuild_buffers()`, which computes them anew. Otherwise `build` runs on the CPU with the same
    seed on every rank and leaves the caller's random state as it was. Nothing is communicated.

    On the device `meta` the parameters stay without values, to be looked at. Without `draws` they
    hold whatever lies in their memory, where the plan has initial values: for a caller who fills
    all of them, or calls `initialise` later.

    Returns:
        The module; `Stages` where it is cut over a pipeline.

    Raises:
        ValueError: the plan and the module do not fit, or a tensor would stay without a value.
    """
    plan, parallel, memory = plan or Plan(), parallel or ParallelConfig(), memory or MemoryConfig()
    _check_plan(plan, topology.degrees)
    _check_heads(plan, topology.degrees, parallel)
    _check_experts(plan, topology.degrees)

    def make(stage: int, count: int) -> nn.Module:
        module = _on_meta(build) if plan.initial else _on_cpu(build, seed)
        full = full_names(module, policy.full)  # before the cut: a glob may be of another stage
        if count > 1:
            cut_stage(module, plan, stage=stage, num_stages=count)
        _to_master(module, policy, full)
        if not plan.initial:
            module.to(device)
        _lay_out(module, plan, topology, policy, full, parallel=parallel, memory=memory)
        if plan.initial and device.type != "meta":
            _materialise(module, plan, device, seed if draws else None)
        _check(module, topology, device)
        return module

    group, place = topology.group(Role.STAGE), topology.coordinates()["pipeline"]
    if group is None:
        module = make(0, 1)
        if (crossed := topology.group(Role.CONTEXT)) is not None:
            cut_around(module, SequenceCut(module, plan, crossed))
        return module
    ranks = stage_ranks(parallel.schedule, topology.degrees.pipeline, parallel.stages_per_rank)
    own = [index for index, rank in enumerate(ranks) if rank == place]
    stages = Stages({index: make(index, len(ranks)) for index in own}, ranks, group, device)
    stages.positions = plan.positions
    if (crossed := topology.group(Role.CONTEXT)) is not None:
        stages.sequence_cut = SequenceCut(stages.stage(own[0]), plan, crossed)
    return stages


def _lay_out(
    module: nn.Module,
    plan: Plan,
    topology: Topology,
    policy: Policy,
    full: Sequence[str],
    *,
    parallel: ParallelConfig,
    memory: MemoryConfig,
) -> None:
    """All wrappers of one stage, in their order."""
    retie(module, plan)
    units = find_units(module, plan)
    if policy.float8 is not None:
        apply_float8(module, units, policy.float8, full=full, shares=topology.degrees.tensor)
    apply_experts(module, plan, topology)
    if topology.tensor_mesh is not None:
        sequence = parallel.sequence_parallel and plan.has_sequence
        apply_tensor(module, plan, topology.tensor_mesh, sequence=sequence)
        retie(module, plan)
    if (crossed := topology.group(Role.CONTEXT)) is not None:
        cross_ranks(module, plan, parallel.context_attention, crossed)
    apply_recompute(module, units, memory)
    apply_compile(module, units, memory)
    if memory.offload_activations:
        apply_offload(module, units)
    if parallel.async_tensor and topology.tensor_mesh is not None:
        overlap_tensor(topology.tensor_mesh)
    apply_shard(
        module,
        units,
        topology,
        policy,
        full=full,
        # A schedule goes back and forth between micro-batches: gathering for each would cost most.
        reshard_after_forward=parallel.reshard_after_forward and topology.degrees.pipeline == 1,
        offload=memory.offload_parameters,
    )


def _check_plan(plan: Plan, degrees: Degrees) -> None:
    """Refuses degrees that the plan knows nothing of, before anything is built."""
    if degrees.tensor > 1:
        check_styles(plan, f"{degrees.tensor} for a model")
    if degrees.pipeline > 1:
        check_cut(plan, f"{degrees.pipeline} for a model")
    if degrees.context > 1:
        check_sequences(plan, f"{degrees.context} for a model", has_attend=True)


def _check_heads(plan: Plan, degrees: Degrees, parallel: ParallelConfig) -> None:
    """Refuses heads that the ranks cannot share, before anything is built."""
    wanted = [("tensor", 1, heads) for heads in plan.heads]
    if parallel.context_attention is ContextAttention.ulysses:
        # It deals out the query heads that a tensor rank has; key-value heads it can repeat.
        wanted += [("context", degrees.tensor, heads) for heads in plan.heads[:1]]
    for axis, others, heads in wanted:
        degree = getattr(degrees, axis)
        if heads % (degree * others):
            fitting = max(n for n in range(1, degree + 1) if heads % (n * others) == 0)
            raise ValueError(
                f"parallel.{axis}: found {degree} for {heads // others} attention heads, needed a "
                f"divisor of them; set parallel.{axis}={fitting}"
            )


def _check_experts(plan: Plan, degrees: Degrees) -> None:
    """Refuses experts that the ranks cannot share, before anything is built."""
    found, holders = degrees.expert, degrees.shard * degrees.context
    if found == 1 or (plan.num_experts and plan.num_experts % found == 0):
        return
    if not plan.num_experts:
        raise ValueError(
            f"parallel.expert: found {found} for a model without experts, needed 1; set "
            "parallel.expert=1, or choose a model that has some"
        )
    fitting = max(n for n in range(1, found) if plan.num_experts % n == 0 and holders % n == 0)
    raise ValueError(
        f"parallel.expert: found {found} for {plan.num_experts} experts, needed a divisor of "
        f"them; set parallel.expert={fitting}"
    )


def _on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return build()


def _on_cpu(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    # The CPU generator alone: torch.manual_seed would also move CUDA's, which is not restored.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(derived_seed(seed, "build"))
        return build()


def _to_master(module: nn.Module, policy: Policy, full: Sequence[str]) -> None:
    """Has parameters in the dtype in which they are kept; what stays in full precision in fp32."""
    exact = {id(p) for child in present(module, full) for p in child.parameters()}
    for parameter in module.parameters():
        if parameter.is_floating_point():
            dtype = torch.float32 if id(parameter) in exact else policy.master
            parameter.data = parameter.data.to(dtype)


def _materialise(module: nn.Module, plan: Plan, device: torch.device, seed: int | None) -> None:
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
    if seed is not None:
        initialise(module, plan, seed=seed)


def _check(module: nn.Module, topology: Topology, device: torch.device) -> None:
    meshes = {topology.param_mesh, topology.expert_param_mesh}
    allowed = {_ranks_of(mesh) for mesh in meshes if mesh is not None}
    seen = set[str]()
    is_allowed: dict[DeviceMesh, bool] = {}  # torch works the ranks of a mesh out at each question
    for name, parameter in module.named_parameters():
        mesh = parameter.device_mesh if isinstance(parameter, DTensor) else None
        if mesh is not None and mesh not in is_allowed:
            is_allowed[mesh] = any(ranks <= _ranks_of(mesh) for ranks in allowed)
        if mesh is None or not is_allowed[mesh]:
            raise ValueError(
                f"model parameter {name}: found {type(parameter).__name__}, needed a DTensor on "
                f"the mesh {topology.param_mesh}; let build return a plain module"
            )
        if canonical_name(name) in seen:
            raise ValueError(
                f"model parameter {name}: found a second {canonical_name(name)}, needed names "
                "that differ without wrappers; rename one of the modules"
            )
        seen.add(canonical_name(name))
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_meta and device.type != "meta":
            raise ValueError(
                f"model tensor {name}: found it on meta, needed it on a device; let build or "
                "rebuild_buffers() give it a value"
            )


def _ranks_of(mesh: DeviceMesh) -> frozenset[int]:
    return frozenset(mesh.mesh.flatten().tolist())
