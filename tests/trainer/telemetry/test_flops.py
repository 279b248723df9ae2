"""Peaks are known for named accelerators and for nothing else."""

import pytest
import torch

from keepstep.parallel import PrecisionName
from keepstep.trainer.telemetry.flops import peak_flops

CUDA = torch.device("cuda")


def test_a_cpu_has_no_known_peak() -> None:
    assert all(peak_flops(torch.device("cpu"), name) is None for name in PrecisionName)


@pytest.mark.parametrize(
    ("device", "precision", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", PrecisionName.bf16, 989e12),
        ("NVIDIA H200", PrecisionName.tf32, 494e12),
        ("NVIDIA A100-SXM4-80GB", PrecisionName.bf16, 312e12),
        ("NVIDIA H100 80GB HBM3", PrecisionName.fp8, 1979e12),
        ("NVIDIA H200", PrecisionName.bf16_pure, 989e12),
        ("NVIDIA A100-SXM4-80GB", PrecisionName.fp16, 312e12),
        ("NVIDIA A100-SXM4-80GB", PrecisionName.fp8, None),
        ("NVIDIA H100 80GB HBM3", PrecisionName.fp32, None),
        ("NVIDIA GeForce GTX 1080", PrecisionName.bf16, None),
    ],
)
def test_a_peak_belongs_to_a_device_and_a_precision(
    monkeypatch: pytest.MonkeyPatch, device: str, precision: PrecisionName, peak: float | None
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: device)
    assert peak_flops(CUDA, precision) == peak
