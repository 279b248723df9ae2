"""An exponential average of the model's parameters (Polyak and Juditsky, SIAM J. Control Optim.
30(4), 1992), in float32 and laid out as they are. Part of the training state, as `ema.<name>`."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import final

import torch
from torch import Tensor, nn

from ..parallel import local_part


@final
class Ema:
    """average = decay x average + (1 - decay) x parameter, after each step that was applied.

    Args:
        module: whose parameters are averaged; as they are now is where the average begins. Not
            gathered.
        decay: per applied step, between 0 and 1.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        with torch.no_grad():
            self.averages: dict[Tensor, Tensor] = {
                parameter: parameter.detach().to(torch.float32, copy=True)
                for parameter in module.parameters()
                if parameter.requires_grad
            }
        self._decay = decay

    def update(self) -> None:
        """Takes the parameters of a step that was applied into the average."""
        averages = [_local(average) for average in self.averages.values()]
        parameters = [_local(parameter).float() for parameter in self.averages]
        if averages:
            with torch.no_grad():
                # No lerp: where a shard ends its kernel on the CPU rounds in another way.
                torch._foreach_mul_(averages, self._decay)
                torch._foreach_add_(averages, torch._foreach_mul(parameters, 1 - self._decay))

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The parameters hold the average inside, and what they held before again after, bit for
        bit. The module is not gathered, neither before nor after; nothing else reads or writes it.
        """
        self._swap()
        kept = self._narrow()
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in kept.items():
                    _local(parameter).copy_(value)
            self._swap()

    def _swap(self) -> None:
        """Parameters of float32 change places with their averages, which takes no memory."""
        with torch.no_grad():
            for parameter, average in self.averages.items():
                if parameter.dtype is torch.float32:
                    held = _local(parameter).clone()
                    _local(parameter).copy_(_local(average))
                    _local(average).copy_(held)

    def _narrow(self) -> Mapping[Tensor, Tensor]:
        """Narrower parameters take the average rounded; what they held."""
        kept = {}
        with torch.no_grad():
            for parameter, average in self.averages.items():
                if parameter.dtype is not torch.float32:
                    kept[parameter] = _local(parameter).clone()
                    _local(parameter).copy_(_local(average))
        return kept


def _local(tensor: Tensor) -> Tensor:
    """This rank's part, sharing its memory."""
    with torch.no_grad():
        return local_part(tensor).detach()
