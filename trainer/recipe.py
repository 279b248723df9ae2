"""What a user brings: a model, a loss, samples, and if wanted an optimizer and a plan."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from ..data import Skips, Source
from ..parallel import Plan
from .config import RunConfig
from .recovery.heartbeat import Phase
from .recovery.life import Life

Batch = dict[str, Tensor]


def rows(batch: Batch) -> int:
    """Valid targets of a batch where each sample is one: its first dimension."""
    return next(iter(batch.values())).shape[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One training job, as plain parts. Nothing in it knows of ranks.

    The loss of a step is the sum of `loss` over all micro-batches of all ranks, divided by the sum
    of `targets` over the same: the same number on every layout.
    """

    model: Callable[[], nn.Module]
    """Builds the module; called on each rank under a fixed seed (on meta where the plan has initial
    values)."""
    loss: Callable[[nn.Module, Batch], Tensor]
    """(module, batch) -> 0-d SUM of the loss over the batch's valid targets."""
    samples: Source | dict[str, Tensor]
    """What is trained on: a source, or tensors whose first dimension counts samples."""
    eval_samples: Source | dict[str, Tensor] | None = None
    """What is held out; None means no evaluation."""
    targets: Callable[[Batch], int] = rows
    """Number of valid targets of a batch; tokens for a language model, samples by default."""
    tokens_per_sample: int = 1
    """Tokens of one sample; turns train.batch_tokens into samples."""
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None
    """Makes the optimizer of the sharded parameters; None means the configured one. Its learning
    rates are taken as peaks that the schedule scales."""
    plan: Plan | None = None
    """How the model is laid out; None derives it from the repeated blocks."""
    finish: Callable[[nn.Module], dict[str, Any]] | None = None
    """Called on every rank with the trained module; its answer goes into summary.json."""
    skips: Sequence[Skips] = ()
    """Bad samples that are left out, by source: part of a run's state, agreed on at each save."""
    close: Callable[[], None] | None = None
    """Called once in every process when its training ends, well or not: ends the data's threads."""


MakeRecipe = Callable[[RunConfig], Recipe]


@final
class KeptRecipe:
    """A recipe that is made once a process, however many generations that lives through."""

    def __init__(self, make: MakeRecipe) -> None:
        self._make = make
        self._made: Recipe | None = None

    def on(self, life: Life) -> MakeRecipe:
        """As the process asks for it in one of its lives.

        The first rank of each node goes first, so that what is prepared or fetched is made once, by
        the rank that speaks, and found by the others.
        """

        def made(config: RunConfig) -> Recipe:
            if self._made is None:
                self._made = self._first(config, life)
            return self._made

        return made

    def close(self) -> None:
        """Ends what the recipe keeps open; safe twice."""
        made, self._made = self._made, None
        if made is not None and made.close is not None:
            made.close()

    def _first(self, config: RunConfig, life: Life) -> Recipe:
        life.beat(0, Phase.prepare)
        if life.world.local_rank > 0:
            life.wait_for_node()
        try:
            return self._make(config)
        finally:  # after an error too: the others then meet it themselves and do not wait for ever
            if life.world.local_rank == 0:
                life.release_node()
