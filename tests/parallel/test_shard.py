"""Gradients as sums on every layout, windows that reduce once, units and their refusals."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.world import run_world
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from keepstep.parallel import ParallelConfig, Plan, reshard, set_last_microbatch
from keepstep.parallel.shard import find_units


def backward_by_microbatches(tiny: SimpleNamespace, module: nn.Module, tokens: Tensor) -> None:
    rows = tokens.split(1)
    for index, row in enumerate(rows):
        assert all(p.grad is None for p in module.parameters()), "reduced before the last"
        set_last_microbatch(module, is_last=index == len(rows) - 1)
        tiny.loss_of(module, row).backward()


@pytest.mark.slow(
    but=["replicate2-shard2-window of microbatches", "shard2-one batch", "1-one batch"]
)
@pytest.mark.parametrize("windowed", [False, True], ids=["one batch", "window of microbatches"])
def test_gradients_are_the_sums_of_one_process_on_every_layout(
    layout: Any, windowed: bool, tiny: SimpleNamespace
) -> None:
    reference = tiny.whole()
    tiny.loss_of(reference, tiny.tokens).backward()

    def body(rank: int) -> dict[str, Tensor]:
        module, topology = tiny.assembled(layout.config)
        if windowed:
            backward_by_microbatches(tiny, module, tiny.share(topology))
        else:
            tiny.loss_of(module, tiny.share(topology)).backward()
        return tiny.full(module, of_grads=True)

    for grads in run_world(layout.size, body):
        for name, parameter in reference.named_parameters():
            scale = parameter.grad.abs().max()
            assert (grads[name] - parameter.grad).abs().max() <= 1e-6 * scale, name


@pytest.mark.slow(but=["shard2", "1"])
def test_training_is_the_same_on_every_layout(layout: Any, tiny: SimpleNamespace) -> None:
    def losses(module: nn.Module, tokens: Tensor) -> list[float]:
        optimizer = torch.optim.AdamW(module.parameters(), lr=0.01)
        taken = []
        for _ in range(6):
            loss = tiny.loss_of(module, tokens) / tiny.tokens.numel()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            taken.append(loss.item())
        return taken

    def body(rank: int) -> list[float]:
        module, topology = tiny.assembled(layout.config)
        return losses(module, tiny.share(topology))

    expected = losses(tiny.whole(), tiny.tokens)
    found = [sum(step) for step in zip(*run_world(layout.size, body), strict=True)]
    assert found == pytest.approx(expected, rel=1e-5)
    assert expected[-1] < expected[0]


@pytest.mark.parametrize("keeps", [True, False])
def test_gathered_parameters_are_kept_or_freed_as_asked(keeps: bool, tiny: SimpleNamespace) -> None:
    def body(rank: int) -> bool:
        config = ParallelConfig(reshard_after_forward=not keeps)
        module, topology = tiny.assembled(config)
        tiny.loss_of(module, tiny.share(topology))
        block = module.blocks[0].up.weight
        return not isinstance(block, torch.distributed.tensor.DTensor)

    assert run_world(2, body) == [keeps, keeps]


def test_after_reshard_a_forward_sees_values_written_since(tiny: SimpleNamespace) -> None:
    def body(rank: int) -> float:
        module, topology = tiny.assembled(tiny.sharded)
        with torch.no_grad():
            module(tiny.share(topology))
            reshard(module)
            for parameter in module.parameters():
                parameter.to_local().zero_()
            return module(tiny.share(topology)).abs().max().item()

    assert run_world(2, body) == [0.0, 0.0]


def test_each_block_and_the_root_are_wrapped(tiny: SimpleNamespace) -> None:
    def body(rank: int) -> list[str]:
        module, _ = tiny.assembled(ParallelConfig())
        return [name for name, child in module.named_modules() if isinstance(child, FSDPModule)]

    assert run_world(1, body) == [["", "blocks.0", "blocks.1"]]


def test_a_star_means_the_outermost_and_deeper_units_are_named_apart(tiny: SimpleNamespace) -> None:
    module = tiny.build()
    assert find_units(module, Plan(units=("blocks.*",))) == ["blocks.0", "blocks.1"]
    deeper = find_units(module, Plan(units=("blocks.0", "blocks.*.up")))
    assert deeper == ["blocks.0", "blocks.0.up", "blocks.1.up"]
    assert find_units(module, Plan(units=())) == []


def test_nested_units_give_the_same_gradients(tiny: SimpleNamespace) -> None:
    nested = Plan(units=("blocks.*", "*.norm"), initial=tiny.plan.initial, tied=tiny.plan.tied)

    def body(rank: int) -> float:
        totals = []
        for plan in (tiny.plan, nested):
            module, topology = tiny.assembled(tiny.sharded, plan=plan)
            tiny.loss_of(module, tiny.share(topology)).backward()
            totals.append(tiny.full(module, of_grads=True)["blocks.0.norm.weight"])
        return (totals[0] - totals[1]).abs().max().item()

    assert max(run_world(2, body)) <= 1e-6


@pytest.mark.parametrize(
    ("glob", "sentence"),
    [
        ("layers.*", r"found no module for 'layers\.\*', needed at least one; use .*blocks\.0"),
        ("blocks", "found blocks, a ModuleList without forward, needed modules that are called"),
        ("head", "found head, which shares a parameter with a module outside, needed units"),
    ],
)
def test_a_unit_that_cannot_be_is_refused_by_name(
    glob: str, sentence: str, tiny: SimpleNamespace
) -> None:
    with pytest.raises(ValueError, match=sentence):
        find_units(tiny.build(), Plan(units=(glob,)))


def test_a_scalar_parameter_is_refused_by_name(tiny: SimpleNamespace) -> None:
    def build() -> nn.Module:
        module = nn.Linear(2, 2)
        module.temperature = nn.Parameter(torch.tensor(1.0))
        return module

    def body(rank: int) -> None:
        with pytest.raises(
            ValueError, match=r"temperature: found shape \(\), needed one dimension"
        ):
            tiny.assembled(ParallelConfig(), build=build, plan=None)

    run_world(1, body)
