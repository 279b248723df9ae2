"""Which dtypes a run computes, reduces and keeps its parameters in, as one object.

Owns no loss scale.
"""

from dataclasses import dataclass
from typing import final

import torch
from torch.distributed.fsdp import MixedPrecisionPolicy

from .config import PrecisionConfig, PrecisionName


@final
@dataclass(frozen=True, slots=True)
class Policy:
    """The dtypes of one run."""

    compute: torch.dtype
    """Of activations and of parameters while they compute."""
    reduce: torch.dtype
    """Of gradients while they are accumulated and reduced."""
    master: torch.dtype
    """Of parameters, gradients and optimizer state at rest."""
    has_tf32: bool
    """Whether float32 matrix products on CUDA may round their inputs to TF32."""

    @classmethod
    def of(cls, config: PrecisionConfig) -> "Policy":
        """Returns the policy that a name stands for."""
        compute = torch.bfloat16 if config.name is PrecisionName.bf16 else torch.float32
        return cls(compute, torch.float32, torch.float32, config.name is PrecisionName.tf32)

    def mixed_precision(self) -> MixedPrecisionPolicy:
        """Returns what FSDP2 needs of this; nothing is cast where compute is master."""
        compute = None if self.compute is self.master else self.compute
        return MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=self.reduce)

    def apply(self, device: torch.device) -> None:
        """Sets torch's process-wide switch for float32 matrix products.

        Raises:
            ValueError: TF32 was asked of a device that has none.
        """
        if self.has_tf32 and device.type != "cuda":
            raise ValueError(
                f"precision=tf32: found device {device.type}, needed cuda; set precision=fp32, "
                "which is what tf32 computes there, or precision=bf16"
            )
        torch.set_float32_matmul_precision("high" if self.has_tf32 else "highest")
