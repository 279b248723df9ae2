"""Parameters that a module sees in another form while it is called, such as their local part."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, distribute_tensor


def swap_while_called(
    module: nn.Module, names: Sequence[str], form: Callable[[Tensor], Tensor]
) -> None:
    """Has `module.forward` see `form(parameter)` in place of each named parameter.

    FSDP sets the gathered parameters before these hooks run and takes them away after, so what is
    swapped is always the current one. Backward flows through `form` into the parameter.
    """
    kept: list[dict[str, Any]] = []

    def swap(owner: nn.Module, _: object) -> None:
        kept.append({name: owner._parameters[name] for name in names})
        for name, parameter in kept[-1].items():
            # Past nn.Module.__setattr__, which takes Parameters only: this one lives for one call.
            owner._parameters[name] = form(parameter)  # type: ignore[assignment]

    def restore(owner: nn.Module, *_: object) -> None:
        if kept:
            owner._parameters.update(kept.pop())

    module.register_forward_pre_hook(swap)
    module.register_forward_hook(restore, always_call=True)


def see_local(
    module: nn.Module,
    names: Sequence[str],
    mesh: DeviceMesh,
    placements: Sequence[Placement],
    *,
    gradient: Sequence[Placement],
) -> None:
    """Lays parameters of a module out on a mesh, in place, and has its forward see their local
    parts; nothing is communicated.

    Args:
        gradient: what the local parts' gradients are of the whole gradient: as the parameters
            where each rank has all of its own part's, Partial where they are yet to be summed.
    """
    for name in names:
        parameter = getattr(module, name)
        placed = distribute_tensor(parameter, mesh, placements, src_data_rank=None)
        module.register_parameter(name, nn.Parameter(placed, parameter.requires_grad))
    if names:
        swap_while_called(module, names, partial(_local, gradient=gradient))


def _local(parameter: Tensor, *, gradient: Sequence[Placement]) -> Tensor:
    assert isinstance(parameter, DTensor)
    local: Tensor = parameter.to_local(grad_placements=gradient)
    return local
