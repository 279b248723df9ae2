"""What is computed again, how often and what is kept meanwhile; and what the compiler is given."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor.config
import torch._inductor.cpu_vec_isa
from support.world import run_world
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from keepstep.parallel import (
    Degrees,
    MemoryConfig,
    ParallelConfig,
    Plan,
    Policy,
    PrecisionConfig,
    Topology,
    assemble,
)
from keepstep.parallel.config import Recompute

WIDTH = 64


class Block(nn.Module):
    """Two matrix products with cheap operators between, whose outputs are most of the memory."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(WIDTH, WIDTH)
        self.down = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(x)
        for _ in range(4):
            h = nn.functional.silu(h)
        return x + self.down(nn.functional.dropout(h, 0.1, self.training))


class Narrow(nn.Module):
    """Two kernels to compile, one forward and one backward."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.silu(self.up(x))


def made(
    config: MemoryConfig, size: int = 1, blocks: int = 4, kind: type[nn.Module] = Block
) -> nn.Module:
    parallel = ParallelConfig()
    return assemble(
        lambda: nn.Sequential(*(kind() for _ in range(blocks))),
        plan=Plan(units=("[0-9]",)),
        topology=Topology.create(Degrees.resolve(parallel, size), "cpu"),
        policy=Policy.of(PrecisionConfig()),
        device=torch.device("cpu"),
        seed=0,
        parallel=parallel,
        memory=config,
    )


class Counting(TorchDispatchMode):
    """Counts operators while they are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def kept_bytes(module: nn.Module, x: Tensor) -> int:
    """Memory that a forward leaves allocated for its backward."""
    module(x).sum().backward()  # what is made once is made now
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        output = module(x)
    found = sum(event.self_cpu_memory_usage for event in profiled.key_averages())
    output.sum().backward()
    return found


CONFIGS = {
    "none": MemoryConfig(),
    "selective": MemoryConfig(recompute=Recompute.selective),
    "every-second": MemoryConfig(recompute=Recompute.full, recompute_every=2),
    "full": MemoryConfig(recompute=Recompute.full),
}


def test_less_is_kept_the_more_is_computed_again() -> None:
    def body(rank: int) -> dict[str, int]:
        x = torch.ones(32, WIDTH)
        return {name: kept_bytes(made(config), x) for name, config in CONFIGS.items()}

    ((found),) = run_world(1, body)
    assert found["full"] < found["selective"] < found["none"]
    assert found["full"] < found["every-second"] < found["none"]
    assert found["full"] < found["none"] / 3


@pytest.mark.parametrize(
    ("name", "products", "activations", "calls"),
    [("none", 0, 0, 4), ("selective", 0, 16, 8), ("every-second", 2, 8, 6), ("full", 4, 16, 8)],
)
def test_backward_computes_again_what_it_is_told_to(
    name: str, products: int, activations: int, calls: int
) -> None:
    """Of two products in a block the last one's output is nothing that backward needs."""

    def body(rank: int) -> tuple[int, int, int]:
        module, called = made(CONFIGS[name]), []
        for child in module.modules():
            if isinstance(child, Block) and "_checkpoint_wrapped_module" not in child._modules:
                child.register_forward_pre_hook(lambda *_: called.append(1))
        loss = module(torch.ones(8, WIDTH)).sum()
        with Counting() as counting:
            loss.backward()
        return counting.counts["addmm"], counting.counts["silu"], len(called)

    assert run_world(1, body) == [(products, activations, calls)]


def test_recomputation_keeps_every_bit_with_dropout() -> None:
    def body(rank: int) -> list[bool]:
        ends = []
        for config in CONFIGS.values():
            module = made(config, 2)
            torch.manual_seed(5)
            module(torch.linspace(-1, 1, 8 * WIDTH).view(8, WIDTH)).square().sum().backward()
            ends.append([p.grad.full_tensor() for p in module.parameters()])
        return [all(map(torch.equal, ends[0], other)) for other in ends[1:]]

    assert run_world(2, body) == [[True] * 3] * 2


def compiled_with(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda module: real(module, backend=backend))


def quiet(test: Any) -> Any:
    """Takes out what torch's compiler says of torch itself, of its imports and of inputs."""
    for words in ("ignore:.*torch.jit:DeprecationWarning", r"ignore:The \.grad attr:UserWarning"):
        test = pytest.mark.filterwarnings(words)(test)
    return test


@pytest.mark.slow(but=["full-False"])
@quiet
@pytest.mark.parametrize(("recompute", "away"), [("none", True), ("full", False)])
def test_compiled_blocks_keep_names_and_come_near_eager_ones(
    monkeypatch: pytest.MonkeyPatch, recompute: str, away: bool
) -> None:
    compiled_with("aot_eager", monkeypatch)

    def body(rank: int) -> tuple[bool, bool]:
        kind, x = Recompute(recompute), torch.linspace(-1, 1, 8 * WIDTH).view(8, WIDTH)
        plain, made_so = (
            made(MemoryConfig(recompute=kind, compile=on, offload_activations=away and on), 2, 2)
            for on in (False, True)
        )
        ends = []
        for module in (plain, made_so):
            module.eval()
            module(x).square().sum().backward()
            ends.append([p.grad.full_tensor() for p in module.parameters()])
        names = [list(dict(module.state_dict())) for module in (plain, made_so)]
        near = all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(*ends, strict=True))
        return near, names[0] == names[1]

    assert run_world(2, body) == [(True, True)] * 2


def test_the_budget_of_activations_reaches_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled_with("aot_eager", monkeypatch)

    def body(rank: int) -> float:
        made(MemoryConfig(recompute=Recompute.budget, compile=True, activation_budget=0.25))
        return torch._functorch.config.activation_memory_budget

    assert run_world(1, body) == [0.25]


@pytest.mark.slow
@quiet
def test_inductor_trains_on_a_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    # In the rank itself, which is a fork, and without headers that take longer than the kernels.
    monkeypatch.setattr(torch._inductor.config, "compile_threads", 1)
    monkeypatch.setattr(torch._inductor.config, "cpp_cache_precompile_headers", False)
    # A look for vector units compiles as long as a kernel does.
    monkeypatch.setattr(torch._inductor.cpu_vec_isa, "valid_vec_isa_list", list)

    def body(rank: int) -> tuple[list[float], list[float], bool]:
        curves, names = [], []
        for compiles in (False, True):
            module = made(MemoryConfig(compile=compiles), blocks=1, kind=Narrow)
            optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
            losses = []
            for _ in range(3):
                loss = module(torch.ones(8, WIDTH)).square().mean()
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                losses.append(loss.item())
            curves.append(losses)
            names.append([name for name, _ in module.named_parameters()])
        return curves[0], curves[1], names[0] == names[1]

    ((eager, compiled, same_names),) = run_world(1, body, timeout_seconds=240)
    assert same_names
    assert compiled == pytest.approx(eager, rel=1e-5)
    assert compiled[-1] < compiled[0]
