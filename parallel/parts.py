"""Modules whose output is a sum of parts, one from each rank of a tensor mesh: what holds experts.

Inside such a module tensors are plain and nothing is communicated. Its input is whole on every
rank, its output is summed on the way out, and every gradient inside is a part of a sum too: that of
the input is summed on the way back, those of whole parameters (a router's) before they are reduced.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard

from .layers.router import Router
from .plan import Style
from .swap import see_local

_CUTS = {Style.column: Shard(0), Style.row: Shard(1)}


def sum_parts(
    module: nn.Module, styles: Mapping[str, Style], mesh: DeviceMesh, *, between: Placement
) -> None:
    """Has the module compute its part of its output, in place; nothing is communicated.

    Args:
        styles: column and row of linear layers inside, by their name in `module`.
        between: how activations lie on the mesh before and after the module.

    Raises:
        ValueError: a row layer with a bias, which every rank would add.
    """
    for name, child in module.named_modules():
        _cut(name, child, styles.get(name), mesh)
        if isinstance(child, Router):
            child.copies = mesh.size()

    def whole(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (gathered(args[0], mesh, between), *args[1:])

    def summed(_: nn.Module, __: object, part: Tensor) -> Tensor:
        placed = DTensor.from_local(part, mesh, [Partial()], run_check=False)
        total: Tensor = placed.redistribute(placements=[between]).to_local()
        return total

    module.register_forward_pre_hook(whole)
    module.register_forward_hook(summed)


def gathered(tensor: Tensor, mesh: DeviceMesh, between: Placement) -> Tensor:
    """Collective: a plain tensor, whole on every rank, whose gradients are summed over the ranks,
    since each knows a part of them only."""
    if not isinstance(tensor, DTensor):
        tensor = DTensor.from_local(tensor, mesh, [between], run_check=False)
    whole: Tensor = tensor.redistribute(placements=[Replicate()]).to_local(
        grad_placements=[Partial()]
    )
    return whole


def _cut(name: str, child: nn.Module, style: Style | None, mesh: DeviceMesh) -> None:
    cut = _CUTS.get(style) if style is not None else None
    if cut is None:
        names = [
            at for at, p in child.named_parameters(recurse=False) if not isinstance(p, DTensor)
        ]
        see_local(child, names, mesh, [Replicate()], gradient=[Partial()])
        return
    if style is Style.row and getattr(child, "bias", None) is not None:
        raise ValueError(
            f"plan.tensor: found a bias in {name}, a row layer inside a module of style "
            f"{Style.partial}, needed none, since every rank would add it; build it with bias=False"
        )
    see_local(
        child,
        [at for at, _ in child.named_parameters(recurse=False)],
        mesh,
        [cut],
        gradient=[cut],
    )
