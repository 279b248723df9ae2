"""Evaluation: the mean loss over held-out samples, the same number on every layout."""

import contextlib
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from ..data import Source, evaluation_batches
from ..parallel import Role, Topology, reshard, sum_
from .build import Job
from .ema import Ema
from .forward_backward import to_device
from .recipe import Recipe, rows

_FIRST = np.zeros(1, dtype=np.int64)


def evaluate(
    module: nn.Module,
    source: Source,
    recipe: Recipe,
    topology: Topology,
    *,
    device: torch.device,
    microbatch_samples: int,
    beat: Callable[[], None],
) -> float:
    """Collective: mean loss over all valid targets of `source`, each sample once. Blocks; calls
    `beat` before each batch, since an evaluation may take longer than a hang is allowed to."""
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    batches = evaluation_batches(
        source,
        microbatch_samples=microbatch_samples,
        reader_index=topology.data_index,
        reader_count=topology.data_count,
    )
    # The ranks of a sequence have the same targets and each a part of their loss.
    counts = topology.coordinates()["context"] == 0
    module.eval()
    with torch.no_grad():
        for batch in batches:
            beat()
            targets = recipe.targets(batch)
            is_spare = not rows(batch)  # all ranks take part in the collectives of a forward
            held = to_device(source.read(_FIRST) if is_spare else batch, device)
            summed = recipe.loss(module, held).double()
            if not is_spare:
                sums += torch.stack([summed, summed.new_tensor(targets * counts)])
    module.train()
    reshard(module)
    sum_(sums, topology.group(Role.LOSS))
    return float(sums[0] / sums[1].clamp(min=1))


def evaluate_job(
    job: Job, ema: Ema | None, *, wait: Callable[[], object], beat: Callable[[], None]
) -> float | None:
    """Collective: as `evaluate`, of a job's held-out samples; None where it has none.

    Args:
        ema: whose average stands in place of the weights meanwhile; None leaves them there.
        wait: blocks until the weights may change: a snapshot may still be reading them.
    """
    if job.eval_source is None:
        return None
    weights: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if ema is not None:
        wait()
        reshard(job.module)
        weights = ema.in_place()
    with weights:
        return evaluate(
            job.module,
            job.eval_source,
            job.recipe,
            job.topology,
            device=job.device,
            microbatch_samples=job.config.train.microbatch_samples,
            beat=beat,
        )
