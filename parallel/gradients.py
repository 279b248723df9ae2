"""The norm of a model's gradients over all its shards, and clipping by it.

Neither waits for the device; the verdict on a norm is the caller's.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Collective: returns the L2 norm of the full gradients, 0-d float32, equal on all ranks.

    Parameters without a gradient are skipped; without any the norm is 0. Gradients are grouped by
    mesh, since torch refuses a norm over several.
    """
    groups: dict[DeviceMesh | None, list[Tensor]] = {}
    for grad in _gradients(parameters):
        groups.setdefault(grad.device_mesh if isinstance(grad, DTensor) else None, []).append(grad)
    norms = [_full_norm(group) for group in groups.values()]
    if len(norms) < 2:
        return norms[0] if norms else torch.zeros(())
    combined: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return combined


def clip_(parameters: Iterable[nn.Parameter], norm: Tensor, max_norm: float) -> None:
    """Scales the gradients in place so that their norm, now `norm`, is at most `max_norm`.

    A `max_norm` of 0 or infinity clips nothing. A norm that is not finite spoils the gradients:
    look at it before you step.
    """
    grads = [g.to_local() if isinstance(g, DTensor) else g for g in _gradients(parameters)]
    if max_norm <= 0 or math.isinf(max_norm) or not grads:
        return
    # Scaling by exactly 1.0 changes no bit, so there is no branch that would need the value here.
    scale = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
    torch._foreach_mul_(grads, scale.to(grads[0].device))


def _gradients(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _full_norm(grads: list[Tensor]) -> Tensor:
    norm = nn.utils.get_total_norm(grads)
    return (norm.full_tensor() if isinstance(norm, DTensor) else norm).float()
