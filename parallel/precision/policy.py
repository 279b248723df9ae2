"""Which dtypes a run computes, reduces and keeps its parameters in, as one object.

Owns no loss scale.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import final

import torch
from torch.distributed.fsdp import MixedPrecisionPolicy

from ..config import Float8Recipe, PrecisionConfig, PrecisionName

_COMPUTE = {
    PrecisionName.bf16: torch.bfloat16,
    PrecisionName.bf16_pure: torch.bfloat16,
    PrecisionName.fp16: torch.float16,
    PrecisionName.fp8: torch.bfloat16,
}
_FLOAT8_CAPABILITY = (8, 9)  # Ada, then Hopper: the first with float8 matrix products


@final
@dataclass(frozen=True, slots=True)
class Float8:
    """How the matrix products of blocks are computed in float8."""

    recipe: Float8Recipe
    is_emulated: bool


@final
@dataclass(frozen=True, slots=True)
class Policy:
    """The dtypes of one run."""

    compute: torch.dtype
    """Of activations and of parameters while they compute."""
    reduce: torch.dtype
    """Of gradients while they are accumulated and reduced; never fp16 (hazard T8)."""
    master: torch.dtype
    """Of parameters, gradients and optimizer state at rest."""
    has_tf32: bool
    """Whether float32 matrix products on CUDA may round their inputs to TF32."""
    has_scale: bool = False
    """Whether the loss is scaled, for gradients that would vanish."""
    float8: Float8 | None = None
    """Linear layers in float8, where it is not None."""
    full: tuple[str, ...] = ()
    """Globs of modules that compute in fp32 on fp32 parameters."""

    @classmethod
    def of(cls, config: PrecisionConfig) -> "Policy":
        """Returns the policy that a config stands for."""
        name, is_float8 = config.name, config.name is PrecisionName.fp8
        return cls(
            compute=_COMPUTE.get(name, torch.float32),
            reduce=torch.float32,
            master=torch.bfloat16 if name is PrecisionName.bf16_pure else torch.float32,
            has_tf32=name is PrecisionName.tf32,
            has_scale=name is PrecisionName.fp16,
            float8=Float8(config.recipe, config.emulate) if is_float8 else None,
            full=tuple(config.full),
        )

    def mixed_precision(self, *, is_full: bool = False) -> MixedPrecisionPolicy:
        """Returns what FSDP2 needs of this; nothing is cast where compute is fp32.

        Args:
            is_full: whether it is for a module of `full`, whose inputs `full` casts, since FSDP2
                casts none while a block is computed again in backward.
        """
        if is_full:
            return MixedPrecisionPolicy(reduce_dtype=self.reduce, cast_forward_inputs=False)
        compute = None if self.compute is torch.float32 else self.compute
        return MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=self.reduce)

    def apply(self, device: torch.device) -> None:
        """Sets torch's process-wide switch for float32 matrix products.

        Raises:
            ValueError: TF32 or float8 was asked of a device that has none.
        """
        if self.has_tf32 and device.type != "cuda":
            raise ValueError(
                f"precision=tf32: found device {device.type}, needed cuda; set precision=fp32, "
                "which is what tf32 computes there, or precision=bf16"
            )
        if self.float8 is not None:
            _check_float8(device, self.float8)
        torch.set_float32_matmul_precision("high" if self.has_tf32 else "highest")


def _check_float8(device: torch.device, float8: Float8) -> None:
    if find_spec("torchao") is None:
        raise ValueError(
            "precision=fp8: found no torchao, needed its float8 training; install keepstep[fp8], "
            "or set precision=bf16"
        )
    if float8.is_emulated:
        return
    found = f"device {device.type}"
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability >= _FLOAT8_CAPABILITY:
            return
        found = f"{torch.cuda.get_device_name(device)} of compute capability " + ".".join(
            map(str, capability)
        )
    raise ValueError(
        f"precision=fp8: found {found}, needed cuda of compute capability 8.9 or more; set "
        "precision=bf16, or precision.emulate=true to try its rounding slowly"
    )
