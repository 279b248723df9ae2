"""What an elementwise optimizer is: one rule over lists of float32 tensors."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

Tensors = list[Tensor] | tuple[Tensor, ...]


class Rule(Protocol):
    """The arithmetic of an optimizer whose elements do not know of one another.

    A rule uses single IEEE operations only (no addcmul, no lerp, no alpha): those that torch may
    fuse round differently at the end of a vector, so that a shard's bits would follow from its
    length.
    """

    @property
    def moments(self) -> tuple[str, ...]:
        """Names of the tensors that it keeps for each parameter, all zero at first."""
        ...

    def __call__(
        self,
        parameters: Tensors,
        gradients: Tensors,
        moments: Mapping[str, Tensors],
        *,
        lr: float,
        weight_decay: float,
        step: int,
    ) -> None:
        """Changes parameters and moments in place; gradients stay.

        Args:
            parameters: float32; gradients and each moment have as many, of the same shapes.
            step: counts from 1.
        """
        ...
