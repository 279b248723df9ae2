"""Evaluation: the mean loss over held-out samples, the same number on every layout."""

from collections.abc import Callable

import torch
from torch import nn

from ..data import Source, evaluation_batches
from ..parallel import Role, Topology, reshard, sum_
from .recipe import Recipe


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
    module.eval()
    with torch.no_grad():
        for batch in batches:
            beat()
            held = {name: tensor.to(device) for name, tensor in batch.items()}
            sums[0] += recipe.loss(module, held).double()
            sums[1] += recipe.targets(held)
    module.train()
    reshard(module)
    sum_(sums, topology.group(Role.DATA))
    return float(sums[0] / sums[1].clamp(min=1))
