"""Activations that wait in the host's memory between a block's forward and its backward."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import ActivationWrapper
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._dtensor_spec import DTensorSpec

from .recompute import replace_module


class Offloading(ActivationWrapper):
    """A module whose forward keeps what its backward needs in the host's memory, pinned where there
    is an accelerator. Parameters stay where they are: sharding frees them anyhow. Final."""

    def forward(self, *args: Any, **arguments: Any) -> Any:
        held = {_storage(parameter) for parameter in self.parameters()}

        def pack(tensor: Tensor) -> Any:
            return tensor if _storage(tensor) in held else _to_host(tensor)

        with saved_tensors_hooks(pack, _from_host):
            return self._checkpoint_wrapped_module(*args, **arguments)


def apply_offload(module: nn.Module, units: Sequence[str]) -> None:
    """Wraps every unit in place; goes on outside of recomputation, so that it is a block's inputs
    which are moved, and not what is computed again right before it is used."""
    for name in units:
        replace_module(module, name, Offloading(module.get_submodule(name)))


class _Away(NamedTuple):
    """A tensor in the host's memory, and how to have it back."""

    host: Tensor
    device: torch.device
    spec: DTensorSpec | None
    """Mesh, placements and shape of a DTensor, whose local part `host` is."""


def _storage(tensor: Tensor) -> int:
    address: int = _local(tensor).untyped_storage()._cdata
    return address


def _local(tensor: Tensor) -> Tensor:
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor


def _to_host(tensor: Tensor) -> _Away:
    local = _local(tensor).detach()
    is_pinned = local.device.type == "cuda"
    host = torch.empty_like(local, device="cpu", pin_memory=is_pinned)
    # Copies are ordered by the device's stream, on the way out and back; nothing waits for them.
    host.copy_(local, non_blocking=is_pinned)
    return _Away(host, local.device, tensor._spec if isinstance(tensor, DTensor) else None)


def _from_host(packed: Any) -> Tensor:
    if not isinstance(packed, _Away):
        assert isinstance(packed, Tensor)
        return packed
    local = packed.host.to(packed.device, non_blocking=True)
    if (spec := packed.spec) is None:
        return local
    return DTensor.from_local(
        local,
        spec.mesh,
        spec.placements,
        run_check=False,
        shape=spec.shape,
        stride=spec.stride,
    )
