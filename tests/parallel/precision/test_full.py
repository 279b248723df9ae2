"""Modules that stay in full precision by name: which ones, and what they compute in."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.world import run_world
from torch import Tensor, nn

from keepstep.parallel import (
    Degrees,
    MemoryConfig,
    ParallelConfig,
    Policy,
    PrecisionConfig,
    PrecisionName,
    Topology,
    assemble,
)
from keepstep.parallel.config import Recompute
from keepstep.parallel.precision.full import full_names
from keepstep.trainer.config import LlamaConfig
from keepstep.trainer.models.llama import Llama, llama_plan

CONFIG = LlamaConfig(
    name="small", hidden_size=16, intermediate_size=32, num_layers=2, num_heads=2, num_kv_heads=2
)
TOKENS_BT = torch.arange(16).view(2, 8) % 20
FULL = ["*norm", "lm_head"]


def made(
    parallel: ParallelConfig, name: str, full: list[str], memory: MemoryConfig | None = None
) -> nn.Module:
    size = torch.distributed.get_world_size()
    return assemble(
        lambda: Llama(CONFIG, vocabulary_size=20, max_length=8),
        plan=llama_plan(CONFIG, vocabulary_size=20, sequence_length=8),
        topology=Topology.create(Degrees.resolve(parallel, size), "cpu"),
        policy=Policy.of(PrecisionConfig(name=PrecisionName(name), full=full)),
        device=torch.device("cpu"),
        seed=0,
        parallel=parallel,
        memory=memory,
    )


def watched(module: nn.Module) -> dict[str, tuple[torch.dtype, torch.dtype]]:
    """Fills in, as modules are called, the dtypes of their weight and of their output."""
    seen: dict[str, tuple[torch.dtype, torch.dtype]] = {}

    def watch(name: str) -> Any:
        def hook(child: nn.Module, _: object, output: Tensor) -> None:
            seen[name] = (child.weight.dtype, output.dtype)

        return hook

    for name, child in module.named_modules():
        if isinstance(getattr(child, "weight", None), nn.Parameter):
            child.register_forward_hook(watch(name.replace("_checkpoint_wrapped_module.", "")))
    return seen


@pytest.mark.parametrize("name", ["bf16", "fp16", "bf16_pure"])
@pytest.mark.parametrize("recompute", ["none", "full"])
def test_named_modules_compute_in_fp32_inside_a_model_of_fewer_bits(
    name: str, recompute: str
) -> None:
    half = Policy.of(PrecisionConfig(name=PrecisionName(name))).compute

    def body(rank: int) -> None:
        memory = MemoryConfig(recompute=Recompute(recompute))
        module = made(ParallelConfig(), name, FULL, memory)
        seen = watched(module)
        loss = module(TOKENS_BT, targets_BT=TOKENS_BT)
        loss.backward()
        assert loss.dtype is torch.float32
        assert seen["layers.0.self_attn.q_proj"] == (half, half)
        assert seen["embed_tokens"] == (half, half)
        assert seen["lm_head"] == (torch.float32, torch.float32)
        # What follows a norm is to compute in few bits again.
        for norm in ("norm", "layers.0.input_layernorm", "layers.1.post_attention_layernorm"):
            assert seen[norm] == (torch.float32, half)
        for key, parameter in module.named_parameters():
            is_full = "norm" in key or "lm_head" in key
            wanted = torch.float32 if is_full or name != "bf16_pure" else torch.bfloat16
            assert (parameter.dtype, parameter.grad.dtype) == (wanted, wanted), key
            assert parameter.grad.full_tensor().isfinite().all()

    run_world(2, body)


def loss_and_norm_gradient(parallel: ParallelConfig, full: list[str]) -> tuple[float, Tensor]:
    module = made(parallel, "bf16", full)
    loss = module(TOKENS_BT, targets_BT=TOKENS_BT)
    loss.backward()
    return loss.item(), module.norm.weight.grad.full_tensor()


def test_tensor_parallelism_swaps_them_as_it_does_others() -> None:
    ((one, wanted),) = run_world(1, lambda _: loss_and_norm_gradient(ParallelConfig(), FULL))
    for loss, gradient in run_world(
        2, lambda _: loss_and_norm_gradient(ParallelConfig(tensor=2), FULL)
    ):
        assert loss == pytest.approx(one, rel=1e-3)
        torch.testing.assert_close(gradient, wanted, rtol=0.05, atol=0.05)


def test_a_glob_of_another_stage_is_no_mistake() -> None:
    def body(rank: int) -> set[torch.dtype]:
        stages = made(ParallelConfig(pipeline=2), "bf16_pure", ["lm_head"])
        return {parameter.dtype for parameter in stages.parameters()}

    first, last = run_world(2, body)
    assert (first, last) == ({torch.bfloat16}, {torch.bfloat16, torch.float32})


def model() -> nn.Module:
    return Llama(CONFIG, vocabulary_size=20, max_length=8)


def test_globs_name_the_outermost_modules() -> None:
    assert full_names(model(), ["lm_head", "*norm", "norm"]) == [
        *("lm_head", "layers.0.input_layernorm", "layers.0.post_attention_layernorm"),
        *("layers.1.input_layernorm", "layers.1.post_attention_layernorm", "norm"),
    ]
    assert full_names(model(), ["layers.0*"]) == ["layers.0"]


@pytest.mark.parametrize(
    ("glob", "words"),
    [
        ("*nrm", "found no module for '*nrm', needed at least one; use names such as norm"),
        ("head", "use names such as lm_head"),
        ("layers", "found layers, a ModuleList without forward, needed modules that are called"),
    ],
)
def test_a_glob_that_cannot_be_meant_is_refused_with_names_near_it(glob: str, words: str) -> None:
    with pytest.raises(ValueError, match=r"^precision\.full: found") as caught:
        full_names(model(), [glob])
    assert words in str(caught.value)


def test_a_module_that_shares_its_weight_is_refused(tiny: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="found head, which shares a parameter"):
        full_names(tiny.build(), ["head"])
