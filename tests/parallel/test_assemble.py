"""What assemble makes of planned and of any modules, and what it refuses by name."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.world import run_world
from torch import nn
from torch.distributed.tensor import DTensor

from keepstep.parallel import Normal, ParallelConfig, Plan, initialise
from keepstep.parallel.initialise import retie

EVERYWHERE = Plan(initial=(("*", Normal(1.0)),))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 5))


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4, bias=False)
        self.b = nn.Linear(4, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x))


def test_a_planned_module_is_never_whole_on_any_device(tiny: SimpleNamespace) -> None:
    devices = []

    def build() -> nn.Module:
        module = tiny.build()
        devices.extend({tensor.device.type for tensor in module.parameters()})
        return module

    def body(rank: int) -> tuple[list[str], set[int]]:
        module, _ = tiny.assembled(tiny.sharded, build=build)
        return devices, {p.to_local().size(0) for p in module.blocks[0].up.parameters()}

    assert run_world(2, body) == [(["meta"], {2}), (["meta"], {1})]


def test_buffers_are_computed_anew_after_meta(tiny: SimpleNamespace) -> None:
    def body(rank: int) -> list[float]:
        module, _ = tiny.assembled(ParallelConfig())
        return module.positions.flatten().tolist()

    assert run_world(1, body) == [tiny.build().positions.flatten().tolist()]


def test_tied_weights_stay_one_tensor_and_get_both_gradients(
    layout: Any, tiny: SimpleNamespace
) -> None:
    def body(rank: int) -> bool:
        module, topology = tiny.assembled(layout.config)
        assert module.head.weight is module.embed.weight
        tiny.loss_of(module, tiny.share(topology)).backward()
        torch.optim.SGD(module.parameters(), lr=0.1).step()
        tiny.loss_of(module, tiny.share(topology)).backward()
        return module.head.weight is module.embed.weight

    assert run_world(layout.size, body) == [True] * layout.size


def test_a_tie_that_only_the_plan_knows_is_made(tiny: SimpleNamespace) -> None:
    plan = Plan(initial=EVERYWHERE.initial, tied=(("b.weight", "a.weight"),))

    reference = Pair()
    retie(reference, plan)
    initialise(reference, plan, seed=tiny.seed)
    reference(torch.ones(1, 4)).sum().backward()

    def body(rank: int) -> dict[str, torch.Tensor]:
        module, topology = tiny.assembled(ParallelConfig(), build=Pair, plan=plan)
        (module(torch.ones(1, 4)).sum() / topology.data_count).backward()
        return tiny.full(module, of_grads=True)

    for grads in run_world(2, body):
        assert list(grads) == ["a.weight"]
        torch.testing.assert_close(grads["a.weight"], reference.a.weight.grad)


def test_any_module_begins_with_its_constructors_values_on_every_layout(
    layout: Any, tiny: SimpleNamespace
) -> None:
    def begin(rank: int, config: ParallelConfig) -> dict[str, torch.Tensor]:
        torch.manual_seed(rank)
        module, _ = tiny.assembled(config, build=mlp, plan=None)
        return tiny.full(module)

    found = run_world(layout.size, begin, layout.config)
    (reference,) = run_world(1, begin, ParallelConfig())
    assert reference["0.weight"].std() > 0.1
    for values in found:
        assert all(torch.equal(values[name], reference[name]) for name in reference)


def test_building_leaves_the_callers_random_state_and_follows_the_seed(
    tiny: SimpleNamespace,
) -> None:
    def body(rank: int) -> tuple[bool, bool]:
        before = torch.get_rng_state()
        one, two = (
            tiny.full(tiny.assembled(ParallelConfig(), build=mlp, plan=None, seed=seed)[0])
            for seed in (1, 2)
        )
        return torch.equal(torch.get_rng_state(), before), torch.equal(one["0.bias"], two["0.bias"])

    assert run_world(1, body) == [(True, False)]


def test_a_module_without_blocks_is_sharded_at_its_root(tiny: SimpleNamespace) -> None:
    def body(rank: int) -> tuple[type, torch.Size]:
        module, _ = tiny.assembled(ParallelConfig(), build=lambda: nn.Linear(3, 4), plan=None)
        assert module(torch.ones(1, 3)).shape == (1, 4)
        module(torch.ones(1, 3)).sum().backward()
        return type(module.weight), module.weight.to_local().shape

    assert run_world(2, body) == [(DTensor, (2, 3))] * 2


class Unhandled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.register_buffer("table", torch.ones(2), persistent=False)


class LeavesMeta(Unhandled):
    def rebuild_buffers(self) -> None:
        self.table = torch.ones(2, device="meta")


class Collides(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(2, 2)
        self._orig_mod = nn.ModuleDict({"a": nn.Linear(2, 2)})


@pytest.mark.parametrize(
    ("build", "plan", "sentence"),
    [
        (
            Unhandled,
            EVERYWHERE,
            r"buffer table: found no value .*rebuild_buffers\(\) on .*Unhandled",
        ),
        (LeavesMeta, EVERYWHERE, "model tensor table: found it on meta, needed it on a device"),
        (Collides, None, r"_orig_mod\.a\.weight: found a second a\.weight, needed names that"),
        (mlp, Plan(initial=(("0.*", Normal(1.0)),)), r"no value for 2\.weight, 2\.bias, needed"),
    ],
)
def test_what_cannot_be_assembled_is_refused_by_name(
    build: Callable[[], nn.Module], plan: Plan | None, sentence: str, tiny: SimpleNamespace
) -> None:
    def body(rank: int) -> None:
        with pytest.raises(ValueError, match=sentence):
            tiny.assembled(ParallelConfig(), build=build, plan=plan)

    run_world(1, body)
