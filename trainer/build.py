"""Config -> live objects: the only file that knows every room. It trains nothing."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import nn

from ..checkpoint import Checkpoints, LocalStore
from ..data import (
    Loader,
    Order,
    OrderRecipe,
    Source,
    Subset,
    TensorSource,
    fit_recipe,
    share_microbatches,
)
from ..parallel import (
    Degrees,
    Exchange,
    Plan,
    Policy,
    Topology,
    World,
    assemble,
    join,
    keep_freed_memory,
    pick_device,
)
from .config import RunConfig
from .errors import ConfigError
from .identity import checkpoint_folder
from .optim import build_adamw
from .recipe import MakeRecipe, Recipe
from .recovery.heartbeat import Phase
from .recovery.life import Life


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Everything that the loop works with, on one rank of one generation."""

    config: RunConfig
    recipe: Recipe
    device: torch.device
    topology: Topology
    module: nn.Module
    plan: Plan
    optimizer: torch.optim.Optimizer
    order: OrderRecipe
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
    if config.train.batch_samples is not None:
        share_microbatches(
            config.train.batch_samples, config.train.microbatch_samples, 0, degrees.data_count
        )
    elif config.train.batch_tokens % config.data.sequence_length == 0:
        samples = config.train.batch_tokens // config.data.sequence_length
        share_microbatches(samples, config.train.microbatch_samples, 0, degrees.data_count)
    path = config.checkpoint.path
    if path is not None and "://" in path:
        raise ConfigError(
            f"checkpoint.path: found the URL {path}, needed a local folder; this version saves to "
            "local disks"
        )
    for fault in config.chaos.plan:
        if not 0 <= fault.rank < world.world_size:
            raise ConfigError(
                f"chaos.plan: found rank {fault.rank}, needed one of the {world.world_size} ranks; "
                "correct the fault's rank"
            )
    return degrees


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
        policy.apply(device)
    if device.type == "cpu":
        keep_freed_memory()
    recipe = _recipe(config, make_recipe, life)
    samples, eval_samples = _source(recipe.samples), _eval_source(recipe, config)
    life.beat(0, Phase.start)
    deadline = timedelta(seconds=config.parallel.timeout_seconds)
    join(life.meeting_store(), world.rank, world.world_size, device=device, timeout=deadline)
    topology = Topology.create(degrees, device.type, timeout=deadline)
    plan = recipe.plan or Plan()
    module = assemble(
        recipe.model,
        plan=plan,
        topology=topology,
        policy=policy,
        device=device,
        seed=config.train.seed,
        reshard_after_forward=config.parallel.reshard_after_forward,
    )
    with _settings_at_fault():
        order, loader, size = _loader(config, recipe, samples, topology)
    return Job(
        config=config,
        recipe=recipe,
        device=device,
        topology=topology,
        module=module,
        plan=plan,
        optimizer=_optimizer(config, recipe, module),
        order=order,
        loader=loader,
        batch_samples=size,
        eval_source=eval_samples,
        checkpoints=Checkpoints(
            LocalStore(checkpoint_folder(config)),
            Exchange(topology.control),
            keep=config.checkpoint.keep,
        ),
    )


def _recipe(config: RunConfig, make_recipe: MakeRecipe, life: Life) -> Recipe:
    """The user's part. The first rank of each node goes first, so that what is prepared or fetched
    is made once, by the rank that speaks, and found by the others."""
    life.beat(0, Phase.prepare)
    if life.world.local_rank > 0:
        life.wait_for_node()
    try:
        return make_recipe(config)
    finally:  # after an error too: the others then meet it themselves and do not wait for ever
        if life.world.local_rank == 0:
            life.release_node()


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
    config: RunConfig, recipe: Recipe, samples: Source, topology: Topology
) -> tuple[OrderRecipe, Loader, int]:
    data, size = config.data, batch_samples(config, recipe)
    order = fit_recipe(
        samples, seed=data.seed, block=data.block, lanes=data.lanes, window=data.window
    )
    loader = Loader(
        samples,
        Order(order),
        batch_samples=size,
        microbatch_samples=config.train.microbatch_samples,
        reader_index=topology.data_index,
        reader_count=topology.data_count,
        prefetch=data.prefetch_batches,
    )
    return order, loader, size


def _optimizer(config: RunConfig, recipe: Recipe, module: nn.Module) -> torch.optim.Optimizer:
    if recipe.optimizer is not None:
        return recipe.optimizer(p for p in module.parameters() if p.requires_grad)
    return build_adamw(config.optim, module)


def _source(samples: Source | dict[str, torch.Tensor]) -> Source:
    return TensorSource(samples) if isinstance(samples, dict) else samples


def _eval_source(recipe: Recipe, config: RunConfig) -> Source | None:
    if recipe.eval_samples is None:
        return None
    source = _source(recipe.eval_samples)
    limit = config.train.eval_samples
    return Subset(source, limit) if limit else source
