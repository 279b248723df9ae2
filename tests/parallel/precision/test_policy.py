"""What the dtype policies mean, and that bf16 trains on float32 parameters."""

from types import SimpleNamespace

import pytest
import torch
from support.world import run_world

from keepstep.parallel import (
    ParallelConfig,
    Policy,
    PrecisionConfig,
    PrecisionName,
    set_last_microbatch,
)


def policy(name: str) -> Policy:
    return Policy.of(PrecisionConfig(name=PrecisionName(name)))


@pytest.mark.parametrize("name", ["fp32", "tf32"])
def test_full_precision_casts_nothing(name: str) -> None:
    assert policy(name).mixed_precision().param_dtype is None
    assert policy(name).master is torch.float32


def test_bf16_computes_in_bf16_and_reduces_in_fp32() -> None:
    mixed = policy("bf16").mixed_precision()
    assert (mixed.param_dtype, mixed.reduce_dtype) == (torch.bfloat16, torch.float32)
    assert policy("bf16").master is torch.float32


@pytest.mark.parametrize(
    ("name", "compute", "master", "has_scale"),
    [
        ("bf16_pure", torch.bfloat16, torch.bfloat16, False),
        ("fp16", torch.float16, torch.float32, True),
        ("fp8", torch.bfloat16, torch.float32, False),
    ],
)
def test_every_policy_says_its_dtypes_and_reduces_in_fp32(
    name: str, compute: torch.dtype, master: torch.dtype, has_scale: bool
) -> None:
    found = policy(name)
    assert (found.compute, found.reduce, found.master) == (compute, torch.float32, master)
    assert (found.has_scale, found.has_tf32) == (has_scale, False)
    assert (found.float8 is not None) == (name == "fp8")


def test_tf32_is_refused_on_a_cpu() -> None:
    with pytest.raises(ValueError, match="precision=tf32: found device cpu, needed cuda; set"):
        policy("tf32").apply(torch.device("cpu"))


def test_the_switch_for_matrix_products_follows_the_policy() -> None:
    try:
        policy("tf32").apply(torch.device("cuda"))
        assert torch.get_float32_matmul_precision() == "high"
        policy("fp32").apply(torch.device("cpu"))
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_bf16_trains_with_parameters_and_gradients_in_fp32(tiny: SimpleNamespace) -> None:
    def body(rank: int) -> list[float]:
        module, topology = tiny.assembled(ParallelConfig(), precision=PrecisionName.bf16)
        optimizer = torch.optim.AdamW(module.parameters(), lr=0.03)
        losses = []
        for _ in range(15):
            assert module(tiny.share(topology)).dtype is torch.bfloat16
            loss = tiny.loss_of(module, tiny.share(topology))
            loss.backward()
            assert {p.grad.dtype for p in module.parameters()} == {torch.float32}
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        assert {p.dtype for p in module.parameters()} == {torch.float32}
        return losses

    for losses in run_world(2, body):
        assert losses[-1] < 0.5 * losses[0]


def test_bf16_pure_accumulates_in_fp32_and_keeps_bf16(tiny: SimpleNamespace) -> None:
    """Eight equal micro-batches add up to eight times one, which bf16 sums would round away."""

    def body(rank: int) -> bool:
        module, topology = tiny.assembled(ParallelConfig(), precision=PrecisionName.bf16_pure)
        grads = []
        for count in (1, 8):
            for number in range(count):
                set_last_microbatch(module, number == count - 1)
                tiny.loss_of(module, tiny.share(topology)).backward()
            grads.append([p.grad.full_tensor() for p in module.parameters()])
            assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
            assert {grad.dtype for grad in grads[-1]} == {torch.bfloat16}
            module.zero_grad()
        return all(torch.equal(8 * one, eight) for one, eight in zip(*grads, strict=True))

    assert run_world(2, body) == [True, True]


def test_a_model_built_in_bf16_keeps_fp32_parameters(tiny: SimpleNamespace) -> None:
    def build() -> torch.nn.Module:
        return torch.nn.Linear(4, 4, dtype=torch.bfloat16)

    def body(rank: int) -> set[torch.dtype]:
        module, _ = tiny.assembled(ParallelConfig(), build=build, plan=None)
        return {parameter.dtype for parameter in module.parameters()}

    assert run_world(1, body) == [{torch.float32}]
