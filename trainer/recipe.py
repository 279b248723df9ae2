"""What a user brings: a model, a loss, samples, and if wanted an optimizer and a plan."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..data import Skips, Source
from ..parallel import Plan
from .config import RunConfig

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
    """Called on every rank when its training ends, well or not: ends the data's threads."""


MakeRecipe = Callable[[RunConfig], Recipe]
