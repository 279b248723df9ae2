"""What the configured run takes of a node: bytes of its model, descriptors of its stores."""

from dataclasses import dataclass

from ...parallel import World
from ..config import RunConfig
from ..footprint import Footprint, fullest_rank
from ..models.choose import choose
from .host import Need


@dataclass(frozen=True, kw_only=True, slots=True)
class Takes:
    """Bytes of the rank that holds most; zeros where the model is not known here."""

    state: int = 0
    """What is saved: parameters and optimizer."""
    training: int = 0
    """That, gradients, and what is gathered; activations come on top."""

    def checkpoint(self, world: World, config: RunConfig) -> int:
        """Bytes of a whole checkpoint: each copy is written once."""
        return self.state * world.world_size // max(1, config.parallel.replicate)


def weigh(config: RunConfig, world_size: int) -> Takes:
    """Lays the model out on `meta` in a simulated world: in a process of its own.

    Raises:
        ValueError: it is no language model of keepstep's, or does not fit the degrees.
    """
    build, plan = choose(config, vocabulary_size=config.data.vocabulary_size)
    found: Footprint = fullest_rank(config, build, plan, world_size=world_size)
    return Takes(state=found.parameters + found.optimizer, training=found.total)


def need_of(config: RunConfig, world: World, takes: Takes, *, on_gpu: bool) -> Need:
    """What the ranks of this node need of it."""
    ranks, cache = world.local_world_size, config.data.cache
    slots = config.recovery.slots if config.recovery.enabled else 0
    stores = config.data.store.connections + config.checkpoint.store.connections
    return Need(
        ranks=ranks,
        world_size=world.world_size,
        slots=slots * takes.state * ranks,
        cache=cache.ram_bytes,
        training=0 if on_gpu else takes.training * ranks,
        files=cache.open_maps + stores,
    )
