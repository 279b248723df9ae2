"""One accumulation window: the micro-batches of one optimizer step on this rank, forward and
backward, gradients summed once over the ranks at its end."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..data import Window
from ..parallel import set_last_microbatch
from .recipe import Batch

Loss = Callable[[nn.Module, Batch], Tensor]


def forward_backward(
    module: nn.Module,
    window: Window,
    loss: Loss,
    *,
    targets: Callable[[], int],
    device: torch.device,
    seed: int,
) -> Tensor:
    """Leaves the gradient of (sum of losses / targets) in the parameters.

    Collective: all ranks call it with as many micro-batches each. Blocks.

    Args:
        device: where the model is; batches are moved to it.
        targets: waits for the valid targets of the step over all ranks, by which every layout
            divides; asked after the first forward, so that they are summed meanwhile.
        seed: seed of this step; each micro-batch draws dropout from (seed, its index in the step),
            whichever rank computes it.

    Returns:
        This rank's sum of losses / targets, 0-d, fp32.
    """
    total: Tensor | None = None
    for number, (index, batch) in enumerate(zip(window.microbatches, window.batches, strict=True)):
        set_last_microbatch(module, number == len(window.batches) - 1)
        torch.manual_seed((seed + index) & 0x7FFF_FFFF_FFFF_FFFF)
        held = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        summed = loss(module, held)
        part = summed / targets()
        part.backward()
        part = part.detach().float()
        total = part if total is None else total + part
    assert total is not None, "a window holds at least one micro-batch"
    return total
