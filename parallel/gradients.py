"""The norm of a model's gradients over all its shards, stages and experts, and clipping by it.

Each rank squares what it alone holds; one sum over the world gives the norm, whatever meshes the
gradients lie on (hazard T5). Nothing here communicates or waits for the device but `squares`.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Partial

from .collectives import Exchange
from .names import canonical_name
from .pipeline.stages import Stages, lent_parameters
from .plan import Plan
from .positions import local_part

_NUMBERED = re.compile(r"[^\d.][^.]*(\.[^\d.][^.]*)*\.\d+(?=\.)")


def squares(groups: Mapping[str, Iterable[nn.Parameter]]) -> list[float]:
    """This rank's part of the squared L2 norm of each group's full gradients, in their order.

    Summed over all ranks of the world the parts are the squares: of copies that are equal on
    several ranks one rank counts each, but a copy that is not finite counts wherever it is.
    Parameters without a gradient count nothing. Waits for the device.

    Raises:
        RuntimeError: a gradient is a Partial DTensor, which has no value yet.
    """
    members = {name: [p for p in group if p.grad is not None] for name, group in groups.items()}
    grads = [p.grad for group in members.values() for p in group if p.grad is not None]
    if not grads:
        return [0.0] * len(members)
    local = [local_part(grad) for grad in grads]
    # Norms first: the square of a large float32 gradient need not be a float32.
    # And in float32 where gradients are bfloat16, whose norms would have its 8 bits.
    norms = torch.stack(torch._foreach_norm(local, 2, torch.float32)).double().cpu()
    is_counted = torch.tensor([counts(grad) for grad in grads])
    norms = norms.where(is_counted | ~norms.isfinite(), 0.0)
    sizes = [len(group) for group in members.values()]
    return [float(part.square().sum()) for part in norms.split(sizes)]


def counts(grad: Tensor) -> bool:
    """Whether this rank counts its part of a tensor: no lower rank has the same one."""
    if not isinstance(grad, DTensor):
        return True
    here = grad.device_mesh.get_coordinate() or ()
    if any(isinstance(placement, Partial) for placement in grad.placements):
        raise RuntimeError(f"a gradient of placements {grad.placements} has no value yet")
    return not any(
        placement.is_replicate() and place > 0
        for place, placement in zip(here, grad.placements, strict=True)
    )


def gradient_groups(
    module: nn.Module, plan: Plan, exchange: Exchange
) -> tuple[dict[str, list[nn.Parameter]], list[nn.Parameter]]:
    """Collective where stages differ: what `squares` counts, by block, the same names in the same
    order on all ranks.

    Returns:
        Trainable parameters by group: the name up to its first number, as layers.3, or its first
        word; and the copies of tied parameters, which their owner's rank counts.
    """
    lent = lent_parameters(module, plan)
    groups: dict[str, list[nn.Parameter]] = {}
    copies = []
    for raw, parameter in module.named_parameters():
        name = canonical_name(raw)
        if name in lent:
            copies.append(parameter)
        elif parameter.requires_grad:
            numbered = _NUMBERED.match(name)
            group = numbered.group() if numbered else name.split(".")[0]
            groups.setdefault(group, []).append(parameter)
    if not isinstance(module, Stages):  # every rank has all of them
        return groups, copies
    said = exchange.gather_bytes(json.dumps(list(groups)).encode())
    names = dict.fromkeys(name for one in said for name in json.loads(one))
    return {name: groups.get(name, []) for name in names}, copies


def clip_(parameters: Sequence[nn.Parameter], factor: float) -> None:
    """Scales the gradients in place by `factor`; 1 changes no bit and costs nothing."""
    grads = [p.grad for p in parameters if p.grad is not None]
    if factor != 1.0 and grads:
        torch._foreach_mul_([local_part(grad) for grad in grads], factor)


def clip_factor(norm: float, max_norm: float) -> float:
    """What gradients of a norm are scaled by so that it is at most `max_norm`; 0 clips nothing."""
    if max_norm <= 0 or math.isinf(max_norm):
        return 1.0
    return min(1.0, max_norm / (norm + 1e-6))
