"""Peaks are known for named accelerators and for nothing else; FLOPs a token are those that one
counts by hand."""

import re

import pytest
import torch

from keepstep.parallel import PrecisionName
from keepstep.trainer.compose import compose
from keepstep.trainer.config import LlamaConfig, MoEConfig, ViTConfig
from keepstep.trainer.models import llama, moe, vit
from keepstep.trainer.telemetry.flops import PEAKS, peak_flops, peak_of

CUDA = torch.device("cuda")


def test_a_cpu_has_no_known_peak() -> None:
    assert all(peak_flops(torch.device("cpu"), name) is None for name in PrecisionName)


def test_the_device_is_asked_for_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100-SXM4-80GB")
    assert peak_flops(CUDA, PrecisionName.bf16) == 312e12


@pytest.mark.parametrize(
    ("device", "precision", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989.4e12),
        ("NVIDIA H100 80GB HBM3", "fp8", 1978.9e12),
        ("NVIDIA H100 PCIe", "bf16", 756e12),
        ("NVIDIA H100 NVL", "bf16", 835.5e12),
        ("NVIDIA H200", "tf32", 494.7e12),
        ("NVIDIA H200", "bf16_pure", 989.4e12),
        ("NVIDIA GH200 480GB", "bf16", 989.4e12),
        ("NVIDIA B200", "bf16", 2250e12),
        ("NVIDIA GB200", "fp8", 5000e12),
        ("NVIDIA A100-SXM4-80GB", "fp16", 312e12),
        ("NVIDIA A100 80GB PCIe", "fp32", 19.5e12),
        ("NVIDIA A100-SXM4-80GB", "fp8", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bf16", None),
        ("NVIDIA A10G", "bf16", 70e12),
        ("NVIDIA A10", "bf16", 125e12),
        ("NVIDIA L4", "bf16", 121e12),
        ("NVIDIA L40S", "bf16", 362.05e12),
        ("Tesla V100-SXM2-16GB", "fp16", 125e12),
        ("Tesla V100-SXM2-16GB", "bf16", None),
        ("AMD Instinct MI300X", "bf16", 1307.4e12),
        ("NVIDIA GeForce GTX 1080", "bf16", None),
        ("NVIDIA GeForce RTX 3090", "bf16", 71e12),
    ],
)
def test_a_peak_belongs_to_a_device_and_a_precision(
    device: str, precision: str, peak: float | None
) -> None:
    assert peak_of(device, PrecisionName(precision)) == peak


def test_each_peak_has_a_source_and_no_pattern_hides_a_later_one() -> None:
    assert all(one.source for one in PEAKS)
    for number, one in enumerate(PEAKS):
        plain = re.sub(r"\[(.).*?\]|\((\w+)\|.*?\)|(\w)\?", r"\1\2\3", one.device)
        found = next(peak for peak in PEAKS if re.search(rf"\b{peak.device}\b", plain))
        assert found is PEAKS[number], plain


def config_of(model: str, *words: str) -> object:
    return compose([f"model={model}", *words]).model


def test_a_llama_of_7b_takes_what_its_matrices_and_attention_say() -> None:
    made = LlamaConfig(
        name="llama-7b",
        hidden_size=4096,
        intermediate_size=11008,
        num_layers=32,
        num_heads=32,
        num_kv_heads=32,
    )
    matrices = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008) + 4096 * 32000
    assert matrices == 6_607_077_376  # of the 6,738,415,616 without embedding and norms
    found = llama.flops_per_token(made, 32000, 2048)
    assert found == 6 * 6_607_077_376 + 12 * 32 * 4096 * 2048 == 42_863_689_728


def test_grouped_heads_take_fewer_weights_and_the_same_attention() -> None:
    made = config_of("llama_70b")
    assert isinstance(made, LlamaConfig)
    matrices = 80 * (2 * 8192**2 + 2 * 8192 * 1024 + 3 * 8192 * 28672) + 8192 * 32000
    found = llama.flops_per_token(made, 32000, 4096)
    assert found == 6 * matrices + 12 * 80 * 8192 * 4096


def test_of_a_mixture_the_active_weights_count() -> None:
    made = config_of("moe_8x7b")
    assert isinstance(made, MoEConfig)
    active = 12_879_925_248  # Mixtral 8x7B's; its authors say 12.9 billion
    norms, embedding = 65 * 4096, 32000 * 4096
    found = moe.flops_per_token(made, 32000, 4096)
    assert found == 6 * (active - norms - embedding) + 12 * 32 * 4096 * 4096


def test_an_image_of_vit_b_16_takes_three_times_its_published_forward() -> None:
    made = ViTConfig(
        name="vit-b-16",
        image_size=224,
        patch_size=16,
        num_channels=3,
        num_classes=1000,
        hidden_size=768,
        intermediate_size=3072,
        num_layers=12,
        num_heads=12,
    )
    forward = vit.flops_per_image(made) / 3
    assert forward == pytest.approx(2 * 17.56e9, rel=0.005)  # torchvision: 17.56 GMAC


def test_twice_the_sequence_doubles_attention_alone() -> None:
    made = config_of("llama_1b")
    assert isinstance(made, LlamaConfig)
    one, two, three = (llama.flops_per_token(made, 32000, length) for length in (1024, 2048, 3072))
    assert two - one == three - two == 12 * made.num_layers * made.hidden_size * 1024
