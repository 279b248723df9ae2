"""Peak arithmetic rates of devices, dense (no sparsity), from the makers' data sheets."""

import torch

from ...parallel import PrecisionName

_HALF = (PrecisionName.bf16, PrecisionName.bf16_pure, PrecisionName.fp16)
_HOPPER = {
    **dict.fromkeys(_HALF, 989e12),
    PrecisionName.tf32: 494e12,
    PrecisionName.fp8: 1979e12,
}
# FLOP/s of matrix products on tensor cores by a word in the device's name.
_PEAKS = {
    "H200": _HOPPER,
    "H100": _HOPPER,
    "A100": {**dict.fromkeys(_HALF, 312e12), PrecisionName.tf32: 156e12},
}


def peak_flops(device: torch.device, precision: PrecisionName) -> float | None:
    """Peak FLOP/s of one device in a precision; None where it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peaks.get(precision) for word, peaks in _PEAKS.items() if word in name), None)
