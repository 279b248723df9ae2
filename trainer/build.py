"""Config -> live objects: the only file that knows every room. It trains nothing."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import nn

from ..checkpoint import Checkpoints, LocalStore, open_place
from ..checkpoint.claims import Fence
from ..data import (
    Loader,
    MixtureRecipe,
    OrderRecipe,
    Source,
    Subset,
    TensorSource,
    hand_off,
    order_of,
    share_microbatches,
)
from ..parallel import (
    Degrees,
    Exchange,
    LossScale,
    Pipeline,
    Plan,
    Policy,
    Stages,
    Topology,
    World,
    assemble,
    check_settings,
    fewest_microbatches,
    join,
    keep_freed_memory,
    pick_device,
    sequence_multiple,
)
from .config import RunConfig
from .errors import ConfigError
from .exact import Exact, ExactRunner
from .forward_backward import Flat, Piped, Runner
from .guard.config import OnSpike
from .identity import checkpoint_folder, open_checkpoints, open_seal
from .optim import build_optimizer
from .recipe import MakeRecipe, Recipe
from .recovery.config import FaultKind
from .recovery.heartbeat import Phase
from .recovery.life import Life
from .telemetry.sinks.choose import check_sinks

METRICS = ("eval_loss", "loss")


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Everything that the loop works with, on one rank of one generation."""

    config: RunConfig
    recipe: Recipe
    device: torch.device
    topology: Topology
    module: nn.Module
    plan: Plan
    runner: Runner
    passes: Runner
    """What `runner` runs a window with; where exact, perhaps twice."""
    exact: Exact | None
    is_drawn: bool
    """Whether the module has its initial values."""
    scale: LossScale
    random_place: int
    """Which random numbers this rank draws, apart from the micro-batch: see `seeds`."""
    optimizer: torch.optim.Optimizer
    order: OrderRecipe | MixtureRecipe
    loader: Loader
    batch_samples: int
    eval_source: Source | None
    checkpoints: Checkpoints


def check(config: RunConfig, world: World) -> Degrees:
    """What several settings must agree on, before any work and without touching a device.

    Raises:
        ValueError: one sentence with the setting, what was found, what was needed and what to do.
    """
    degrees = Degrees.resolve(config.parallel, world.world_size)
    check_settings(config.parallel, config.memory, config.parallel.device.value)
    check_sinks(config.telemetry.sinks)
    if (samples := _samples(config)) is not None:
        share_microbatches(samples, config.train.microbatch_samples, 0, degrees.data_count)
    _check_sequence(config)
    _check_microbatches(config, degrees)
    with _settings_at_fault():
        place = open_checkpoints(config)
        _check_tiers(config)
    if (metric := config.checkpoint.best_metric) not in (None, *METRICS):
        raise ConfigError(
            f"checkpoint.best_metric: found {metric}, needed {' or '.join(METRICS)}; set one, or "
            "null for none"
        )
    _check_rollback(config)
    for fault in config.chaos.plan:
        if fault.rank >= world.world_size:
            raise ConfigError(
                f"chaos.plan: found rank {fault.rank}, needed one of the {world.world_size} ranks; "
                "correct the fault's rank, or set -1 for any"
            )
        if fault.do is FaultKind.corrupt and not isinstance(place, LocalStore):
            raise ConfigError(
                f"chaos.plan: found do=corrupt for {place.address()}, needed checkpoints in a "
                "local folder; set another checkpoint.path, or leave the fault out"
            )
    return degrees


def _check_tiers(config: RunConfig) -> None:
    """Each place is one of its own: a copy to where it was read from would be tidied with it."""
    taken: set[str] = set()
    for path in (checkpoint_folder(config), *(tier.path for tier in config.checkpoint.tiers)):
        place = open_place(path, config.checkpoint.store)
        address = str(place.root.resolve()) if isinstance(place, LocalStore) else place.address()
        if address in taken:
            raise ConfigError(
                f"checkpoint.tiers: found {path} twice among checkpoint.path and the tiers, needed "
                "a place of its own for each; leave one out, or set another path"
            )
        taken.add(address)


def _check_rollback(config: RunConfig) -> None:
    recovery = config.recovery
    if config.guard.on_spike is not OnSpike.rollback:
        return
    if config.parallel.exact:
        raise ConfigError(
            "guard.on_spike=rollback: found parallel.exact=true, needed skip or stop, for which "
            "step a run goes back to follows from when snapshots were taken; set "
            "guard.on_spike=skip"
        )
    if not recovery.enabled or recovery.snapshot_every == 0:
        found = "recovery.snapshot_every=0" if recovery.enabled else "recovery.enabled=false"
        raise ConfigError(
            f"guard.on_spike=rollback: found {found}, needed snapshots in memory to go back to; "
            "leave that key at its default, or set guard.on_spike=skip"
        )


def _check_sequence(config: RunConfig) -> None:
    unit, found = sequence_multiple(config.parallel), config.data.sequence_length
    if found % unit:
        raise ConfigError(
            f"data.sequence_length: found {found}, needed a multiple of {unit} for parallel.context"
            f"={config.parallel.context} and parallel.tensor={config.parallel.tensor}; set "
            f"data.sequence_length={max(1, round(found / unit)) * unit}, or other degrees"
        )


def _check_microbatches(config: RunConfig, degrees: Degrees) -> None:
    """What a pipeline needs of the number of micro-batches, where the batch is known already."""
    if degrees.pipeline == 1 or (samples := _samples(config)) is None:
        return
    train, parallel = config.train, config.parallel
    count = samples // train.microbatch_samples // degrees.data_count
    if parallel.microbatches not in (0, count):
        raise ConfigError(
            f"parallel.microbatches: found {parallel.microbatches}, needed 0 or {count}, a rank's "
            f"share of the batch in micro-batches of {train.microbatch_samples} samples; set "
            "parallel.microbatches=0"
        )
    rounds = max(1, count // degrees.pipeline)
    if parallel.schedule == "Interleaved1F1B" and count % rounds:
        fitting = count // degrees.pipeline * degrees.pipeline
        samples = fitting * train.microbatch_samples * degrees.data_count
        raise ConfigError(
            f"parallel.schedule=Interleaved1F1B: found {count} micro-batches a rank, needed a "
            f"multiple of its {rounds} rounds on parallel.pipeline={degrees.pipeline} ranks; set "
            f"train.batch_samples={samples}, or parallel.schedule=LoopedBFS"
        )
    needed = fewest_microbatches(parallel, degrees.pipeline)
    if count < needed:
        fitting = train.microbatch_samples * needed * degrees.data_count
        raise ConfigError(
            f"train.microbatch_samples: found {train.microbatch_samples}, which makes {count} "
            f"micro-batches a rank, needed {needed} or more for parallel.schedule="
            f"{parallel.schedule} on parallel.pipeline={degrees.pipeline} ranks; set "
            f"train.batch_samples={fitting}, or smaller micro-batches, or fewer stages"
        )


def _samples(config: RunConfig) -> int | None:
    """Samples of a step, where they follow from the settings alone."""
    if config.train.batch_samples is not None:
        return config.train.batch_samples
    samples, rest = divmod(config.train.batch_tokens, config.data.sequence_length)
    return None if rest else samples


def build(config: RunConfig, make_recipe: MakeRecipe, life: Life) -> Job:
    """Collective: every rank of a generation makes its part of the job. Blocks; may prepare data.

    Raises:
        ValueError: settings, data and model that do not fit one another.
    """
    world = life.world
    with _settings_at_fault():
        degrees, policy = check(config, world), Policy.of(config.precision)
        kind, on_node = config.parallel.device, world.local_world_size
        device = pick_device(kind, world.local_rank, local_world_size=on_node)
        check_settings(config.parallel, config.memory, device.type)
        policy.apply(device)
    if device.type == "cpu":
        keep_freed_memory()
        if config.parallel.exact:  # with more the order of a kernel's sums follows from the number
            torch.set_num_threads(1)
    recipe = make_recipe(config)
    samples, eval_samples = _source(recipe.samples), _eval_source(recipe, config)
    life.beat(0, Phase.start)
    deadline = timedelta(seconds=config.parallel.timeout_seconds)
    with life.meeting(silence_seconds=config.recovery.silence_seconds) as store:
        join(store, world.rank, world.world_size, device=device, timeout=deadline)
        topology = Topology.create(degrees, device.type, timeout=deadline)
    plan = recipe.plan or Plan()
    # What waits in memory is filled in after this; drawing it first would only take time.
    draws = not (life.generation and life.slots and life.slots.is_sealed)
    module = _module(config, recipe, topology=topology, policy=policy, device=device, draws=draws)
    with _settings_at_fault():
        order, loader, size = _loader(config, recipe, samples, topology, device)
    passes = _runner(config, recipe, module, plan, device)
    exact = _exact(config, module, topology, size) if config.parallel.exact else None
    return Job(
        config=config,
        recipe=recipe,
        device=device,
        topology=topology,
        module=module,
        plan=plan,
        runner=ExactRunner(passes, exact) if exact else passes,
        passes=passes,
        exact=exact,
        is_drawn=draws,
        scale=LossScale.for_fp16() if policy.has_scale else LossScale(),
        random_place=_random_place(config, plan, topology),
        optimizer=_optimizer(config, recipe, module),
        order=order,
        loader=loader,
        batch_samples=size,
        eval_source=eval_samples,
        checkpoints=Checkpoints(
            open_checkpoints(config),
            Exchange(topology.control),
            keep=config.checkpoint.retention,
            holders=topology.holders,
            fence=Fence(claim=life.claim),
            seal=open_seal(config),
        ),
    )


def _module(
    config: RunConfig,
    recipe: Recipe,
    *,
    topology: Topology,
    policy: Policy,
    device: torch.device,
    draws: bool,
) -> nn.Module:
    """This rank's part of the model. What its layout refuses is a setting at fault, in one
    sentence; what the model's own constructor raises keeps its traceback."""
    own: list[Exception] = []

    def model() -> nn.Module:
        try:
            return recipe.model()
        except Exception as error:
            own.append(error)
            raise

    try:
        return assemble(
            model,
            plan=recipe.plan,
            topology=topology,
            policy=policy,
            device=device,
            seed=config.train.seed,
            parallel=config.parallel,
            memory=config.memory,
            draws=draws,
        )
    except ValueError as error:
        if isinstance(error, ConfigError) or any(error is one for one in own):
            raise
        raise ConfigError(str(error)) from error


def _runner(
    config: RunConfig, recipe: Recipe, module: nn.Module, plan: Plan, device: torch.device
) -> Runner:
    if not isinstance(module, Stages):
        return Flat(module, recipe.loss, device)
    pipeline = Pipeline(module, plan, schedule=config.parallel.schedule, device=device)
    return Piped(pipeline, recipe.loss, device)


def _exact(config: RunConfig, module: nn.Module, topology: Topology, size: int) -> Exact:
    unit = config.train.microbatch_samples
    return Exact(
        module,
        topology,
        microbatches=size // unit,
        own=share_microbatches(size, unit, topology.data_index, topology.data_count),
    )


def _random_place(config: RunConfig, plan: Plan, topology: Topology) -> int:
    """Ranks that have different parts of a sequence draw differently; ranks that have the same
    activations, each whole, draw alike."""
    at = topology.coordinates()
    is_cut = config.parallel.sequence_parallel and plan.has_sequence
    return at["context"] * topology.degrees.tensor + (at["tensor"] if is_cut else 0)


@contextlib.contextmanager
def _settings_at_fault() -> Iterator[None]:
    """What the rooms refuse here was set by the user: one sentence, no traceback."""
    try:
        yield
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error


def batch_samples(config: RunConfig, recipe: Recipe) -> int:
    """Samples of one optimizer step over the whole world."""
    train = config.train
    if train.batch_samples is not None:
        return train.batch_samples
    samples, rest = divmod(train.batch_tokens, recipe.tokens_per_sample)
    if rest:
        nearest = max(1, round(train.batch_tokens / recipe.tokens_per_sample))
        raise ConfigError(
            f"train.batch_tokens: found {train.batch_tokens}, needed a multiple of the "
            f"{recipe.tokens_per_sample} tokens of a sample; set "
            f"train.batch_tokens={nearest * recipe.tokens_per_sample}"
        )
    return samples


def _loader(
    config: RunConfig, recipe: Recipe, samples: Source, topology: Topology, device: torch.device
) -> tuple[OrderRecipe | MixtureRecipe, Loader, int]:
    size, order = batch_samples(config, recipe), order_of(samples, config.data)
    loader = Loader(
        samples,
        order,
        batch_samples=size,
        microbatch_samples=config.train.microbatch_samples,
        reader_index=topology.data_index,
        reader_count=topology.data_count,
        prefetch=config.data.prefetch_batches,
        stop=config.train.steps * size,
        handoff=hand_off(device) if device.type == "cuda" else None,
    )
    return order.recipe, loader, size


def _optimizer(config: RunConfig, recipe: Recipe, module: nn.Module) -> torch.optim.Optimizer:
    if recipe.optimizer is not None:
        return recipe.optimizer(p for p in module.parameters() if p.requires_grad)
    with _settings_at_fault():
        return build_optimizer(
            config.optim, module, seed=config.train.seed, exact=config.parallel.exact
        )


def _source(samples: Source | dict[str, torch.Tensor]) -> Source:
    return TensorSource(samples) if isinstance(samples, dict) else samples


def _eval_source(recipe: Recipe, config: RunConfig) -> Source | None:
    if recipe.eval_samples is None:
        return None
    source = _source(recipe.eval_samples)
    limit = config.train.eval_samples
    return Subset(source, limit) if limit else source
