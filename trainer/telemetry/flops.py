"""Peak arithmetic rates of devices, for the model FLOPs utilisation (MFU) of a step:

    MFU = tokens a second of the world x FLOPs a token / (peak of one device x world size)

FLOPs a token are `Plan.flops_per_token`, counted as PaLM does (arXiv 2204.02311, appendix B): of
forward and backward, 6 for each weight of a matrix that a token goes through and 12 x layers x
heads x head size x sequence length for attention, whole sequences, no credit for the causal half or
for documents kept apart. What is computed again (recomputation, steps done twice) does not count,
nor do embeddings that are looked up, norms, or experts that a token does not go to. How the model
is cut changes nothing: tensor, pipeline and context ranks share the tokens that they share.
"""

import re
from dataclasses import dataclass, replace

import torch

from ...parallel import PrecisionName

_HALF = (PrecisionName.bf16, PrecisionName.bf16_pure, PrecisionName.fp16)


@dataclass(frozen=True, kw_only=True, slots=True)
class Peak:
    """Dense rates of one device, in TFLOP/s of matrix products that are summed in fp32; None where
    it cannot, or the maker does not say. Sheets that give rates with sparsity only are halved."""

    device: str
    """Pattern of words in the device's name."""
    source: str
    """The maker's sheet."""
    half: float
    """fp16, and bf16 where `has_bf16`."""
    has_bf16: bool = True
    tf32: float | None = None
    fp32: float | None = None
    fp8: float | None = None


_SXM = Peak(
    device="H[18]00", source="H100 data sheet, SXM", half=989.4, tf32=494.7, fp32=66.9, fp8=1978.9
)
_NVL = Peak(
    device="H100 NVL", source="H100 data sheet, NVL", half=835.5, tf32=417.5, fp32=60, fp8=1670.5
)
PEAKS = (
    Peak(
        device="GB[23]00", source="GB200 and GB300 NVL72", half=2500, tf32=1250, fp32=80, fp8=5000
    ),
    Peak(device="B[23]00", source="HGX B200 and B300", half=2250, tf32=1125, fp32=75, fp8=4500),
    replace(_NVL, device="H200 NVL", source="H200 data sheet, NVL"),
    replace(_SXM, device="G?H200", source="H200 and GH200 data sheets, SXM"),
    Peak(device="H100 PCIe", source="H100 data sheet, PCIe", half=756, tf32=378, fp32=51, fp8=1513),
    _NVL,
    _SXM,
    Peak(device="H20", source="H20 data sheet", half=148, tf32=74, fp32=44, fp8=296),
    Peak(device="A[18]00", source="A100 data sheet", half=312, tf32=156, fp32=19.5),
    Peak(device="A40", source="A40 data sheet", half=149.7, tf32=74.8, fp32=37.4),
    Peak(device="A30", source="A30 data sheet", half=165, tf32=82, fp32=10.3),
    Peak(device="A10G", source="A10G data sheet", half=70, tf32=35, fp32=31.2),
    Peak(device="A10", source="A10 data sheet", half=125, tf32=62.5, fp32=31.2),
    Peak(device="L40S", source="L40S data sheet", half=362.05, tf32=183, fp32=91.6, fp8=733),
    Peak(device="L40", source="L40 data sheet", half=181.05, tf32=90.5, fp32=90.5, fp8=362),
    Peak(device="L4", source="L4 data sheet", half=121, tf32=60, fp32=30.3, fp8=242.5),
    Peak(device="V100S", source="V100 data sheet, S", half=130, has_bf16=False, fp32=16.4),
    Peak(device="V100-PCIE", source="V100 data sheet", half=112, has_bf16=False, fp32=14),
    Peak(device="V100", source="V100 data sheet, SXM2", half=125, has_bf16=False, fp32=15.7),
    Peak(device="T4", source="T4 data sheet", half=65, has_bf16=False, fp32=8.1),
    Peak(device="RTX 4090", source="Ada white paper", half=165.2, tf32=82.6, fp32=82.6, fp8=330.3),
    Peak(device="RTX 3090", source="GA102 white paper", half=71, tf32=35.6, fp32=35.6),
    Peak(device="MI355X", source="MI355X data sheet", half=2516.6, fp32=157.3, fp8=5033.2),
    Peak(
        device="MI3(00|25)X",
        source="MI300X and MI325X data sheets",
        half=1307.4,
        tf32=653.7,
        fp32=163.4,
        fp8=2614.9,
    ),
    Peak(
        device="MI300A", source="MI300A data sheet", half=980.6, tf32=490.3, fp32=122.6, fp8=1961.2
    ),
    Peak(device="MI250X", source="MI250X data sheet, one of its two devices", half=191.5),
)


def peak_flops(device: torch.device, precision: PrecisionName) -> float | None:
    """Peak FLOP/s of one device in a precision; None where it is not known."""
    if device.type != "cuda":
        return None
    return peak_of(torch.cuda.get_device_name(device), precision)


def peak_of(name: str, precision: PrecisionName) -> float | None:
    """The same by the device's name; None for a part of one (MIG), whose share is not known."""
    if re.search(r"\bMIG\b", name):
        return None
    found = next((peak for peak in PEAKS if re.search(rf"\b{peak.device}\b", name)), None)
    if found is None:
        return None
    if precision in _HALF:
        can = found.has_bf16 or precision is PrecisionName.fp16
        return found.half * 1e12 if can else None
    rate: float | None = getattr(found, precision.value)
    return None if rate is None else rate * 1e12
