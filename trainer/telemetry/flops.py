"""Peak arithmetic rates of devices, dense (no sparsity), from the makers' data sheets."""

import torch

from ...parallel import PrecisionName

# FLOP/s of matrix products by a word in the device's name: bf16 and tf32 tensor cores.
_PEAKS = {
    "H200": {PrecisionName.bf16: 989e12, PrecisionName.tf32: 494e12},
    "H100": {PrecisionName.bf16: 989e12, PrecisionName.tf32: 494e12},
    "A100": {PrecisionName.bf16: 312e12, PrecisionName.tf32: 156e12},
}


def peak_flops(device: torch.device, precision: PrecisionName) -> float | None:
    """Peak FLOP/s of one device in a precision; None where it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peaks.get(precision) for word, peaks in _PEAKS.items() if word in name), None)
