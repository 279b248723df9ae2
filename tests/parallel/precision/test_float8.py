"""Which layers compute in float8, and that every layout computes the same ones."""

import importlib
import importlib.util

import pytest
import torch
from support.world import run_world
from torch import Tensor, nn

from keepstep.parallel import Degrees, ParallelConfig, Policy, PrecisionConfig, Topology, assemble
from keepstep.parallel.config import Float8Recipe, PrecisionName
from keepstep.parallel.precision.float8 import apply_float8
from keepstep.parallel.precision.policy import Float8
from keepstep.trainer.config import LlamaConfig
from keepstep.trainer.models.llama import Llama, llama_plan

importlib.import_module("torchao.float8")  # seconds: once here instead of in each rank
CONFIG = LlamaConfig(
    name="small", hidden_size=32, intermediate_size=64, num_layers=1, num_heads=2, num_kv_heads=2
)
TOKENS_BT = torch.arange(32).view(2, 16) % 20
EMULATED = Float8(Float8Recipe.tensorwise, is_emulated=True)


def model() -> nn.Module:
    return Llama(CONFIG, vocabulary_size=32, max_length=16)


def converted(module: nn.Module) -> set[str]:
    return {n for n, m in module.named_modules() if type(m).__name__ == "Float8Linear"}


def test_the_linear_layers_of_blocks_are_converted_and_nothing_else() -> None:
    module = model()
    names = list(module.state_dict())
    apply_float8(module, ["layers.0"], EMULATED, full=(), shares=1)
    attention = {f"layers.0.self_attn.{name}_proj" for name in "qkvo"}
    assert converted(module) == attention | {
        f"layers.0.mlp.{name}_proj" for name in ("gate", "up", "down")
    }
    assert list(module.state_dict()) == names


def test_what_stays_in_full_precision_and_routers_are_left() -> None:
    module = model()
    module.layers[0].mlp.router = nn.Linear(32, 16)
    apply_float8(module, ["layers.0"], EMULATED, full=["layers.0.self_attn"], shares=1)
    assert converted(module) == {f"layers.0.mlp.{name}_proj" for name in ("gate", "up", "down")}


def test_widths_that_float8_cannot_have_are_left_and_none_at_all_is_refused() -> None:
    module = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 24), nn.Linear(24, 16))
    apply_float8(module, ["0", "1", "2"], EMULATED, full=(), shares=1)
    assert converted(module) == {"0"}
    with pytest.raises(
        ValueError,
        match=r"^precision=fp8: found no linear layer in 3 units whose widths over "
        r"parallel.tensor=2 are multiples of 16, needed one; set precision=bf16$",
    ):
        apply_float8(module, ["0", "1", "2"], EMULATED, full=(), shares=2)


def gradients(parallel: ParallelConfig, float8: Float8 | None) -> tuple[float, dict[str, Tensor]]:
    """Of a model whose other arithmetic is in fp32, so that only float8's rounding is seen."""
    size = torch.distributed.get_world_size()
    module = assemble(
        model,
        plan=llama_plan(CONFIG, vocabulary_size=32, sequence_length=16),
        topology=Topology.create(Degrees.resolve(parallel, size), "cpu"),
        policy=Policy(torch.float32, torch.float32, torch.float32, False, float8=float8),
        device=torch.device("cpu"),
        seed=0,
        parallel=parallel,
    )
    loss = module(TOKENS_BT, targets_BT=TOKENS_BT)
    loss.backward()
    count = size // parallel.tensor
    return loss.item(), {n: p.grad.full_tensor() / count for n, p in module.named_parameters()}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", list(Float8Recipe))
def test_shards_and_cut_matrices_round_as_whole_ones_do(recipe: Float8Recipe) -> None:
    float8 = Float8(recipe, is_emulated=True)
    plain = ParallelConfig()
    (exact,) = run_world(1, lambda _: gradients(plain, None))
    (one,) = run_world(1, lambda _: gradients(plain, float8))
    name = "layers.0.mlp.up_proj.weight"
    rounding = float((one[1][name] - exact[1][name]).norm() / exact[1][name].norm())
    assert 1e-3 < rounding < 0.2
    for parallel in (plain, ParallelConfig(tensor=2)):
        for loss, found in run_world(2, lambda _, p=parallel: gradients(p, float8)):
            assert loss == pytest.approx(one[0], rel=1e-4)
            difference = float((found[name] - one[1][name]).norm() / one[1][name].norm())
            assert difference < rounding / 4, difference


def test_devices_without_float8_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Policy.of(PrecisionConfig(name=PrecisionName.fp8))
    words = "needed cuda of compute capability 8.9 or more; set precision=bf16, or precision.emul"
    with pytest.raises(ValueError, match=r"^precision=fp8: found device cpu, ") as caught:
        policy.apply(torch.device("cpu"))
    assert words in str(caught.value)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    with pytest.raises(ValueError, match=r"found NVIDIA A100 of compute capability 8\.0, needed"):
        policy.apply(torch.device("cuda"))


@pytest.mark.parametrize(("device", "emulate"), [("cuda", False), ("cpu", True)])
def test_devices_with_float8_and_its_emulation_are_taken(
    monkeypatch: pytest.MonkeyPatch, device: str, emulate: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    Policy.of(PrecisionConfig(name=PrecisionName.fp8, emulate=emulate)).apply(torch.device(device))


def test_a_machine_without_torchao_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keepstep.parallel.precision.policy.find_spec", lambda name: None)
    policy = Policy.of(PrecisionConfig(name=PrecisionName.fp8, emulate=True))
    with pytest.raises(ValueError, match=r"found no torchao, .*; install keepstep\[fp8\], or set"):
        policy.apply(torch.device("cpu"))
