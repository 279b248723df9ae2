"""Evaluation: the mean loss over held-out samples, the same number on every layout."""

import contextlib
from array import array
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from ..data import Source, evaluation_batches
from ..parallel import Exchange, Topology, reshard
from .build import Job
from .ema import Ema
from .forward_backward import to_device
from .recipe import Recipe, rows
from .sums import total_of

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
    losses, targets = [], 0
    batches = evaluation_batches(
        source,
        microbatch_samples=microbatch_samples,
        reader_index=topology.data_index,
        reader_count=topology.data_count,
    )
    # The ranks of a sequence have the same targets and each a part of their loss.
    at = topology.coordinates()
    module.eval()
    with torch.no_grad():
        for batch in batches:
            beat()
            is_spare = not rows(batch)  # all ranks take part in the collectives of a forward
            held = to_device(source.read(_FIRST) if is_spare else batch, device)
            summed = recipe.loss(module, held).double()
            if not is_spare:
                losses.append(summed)
                targets += recipe.targets(batch) * (at["context"] == 0)
    module.train()
    reshard(module)
    own = [*(torch.stack(losses).tolist() if losses else ()), float(targets)]
    # Ranks of a pipeline, and those that share matrices, have the same losses.
    speaks = at["pipeline"] == at["tensor"] == 0
    packed = array("d", own).tobytes() if speaks else b""
    found = [array("d", one) for one in Exchange(topology.control).gather_bytes(packed) if one]
    # Rounded once, so that it does not show which rank had which batches.
    return total_of(value for one in found for value in one[:-1]) / max(
        1, sum(int(one[-1]) for one in found)
    )


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
