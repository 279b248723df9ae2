"""The norm over shards, replicas and plain tensors, and clipping by it."""

import math
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from support.world import run_world
from torch import nn
from torch.distributed.tensor import Shard, distribute_tensor

from keepstep.parallel import Degrees, Role, Topology, clip_, clip_factor, squares, sum_


def gradient_norm(parameters: Iterable[nn.Parameter], world: dist.ProcessGroup | None) -> float:
    """As the optimizer step makes it: this rank's squares, summed over the world."""
    parts = torch.tensor(squares({"": parameters}), dtype=torch.float64)
    return math.sqrt(float(sum_(parts, world)))


def with_grad(*values: float) -> nn.Parameter:
    parameter = nn.Parameter(torch.zeros(len(values)))
    parameter.grad = torch.tensor(values)
    return parameter


def test_the_norm_is_that_of_the_whole_model_on_every_layout(
    layout: Any, tiny: SimpleNamespace
) -> None:
    reference = tiny.whole()
    tiny.loss_of(reference, tiny.tokens).backward()
    expected = nn.utils.get_total_norm([p.grad for p in reference.parameters()]).item()

    def body(rank: int) -> float:
        module, topology = tiny.assembled(layout.config)
        tiny.loss_of(module, tiny.share(topology)).backward()
        return gradient_norm(module.parameters(), dist.group.WORLD)

    norms = run_world(layout.size, body)
    assert norms == [norms[0]] * layout.size
    assert norms[0] == pytest.approx(expected, rel=1e-6)


def test_clipping_leaves_the_whole_model_with_the_norm_asked_for(
    layout: Any, tiny: SimpleNamespace
) -> None:
    def body(rank: int) -> float:
        module, topology = tiny.assembled(layout.config)
        tiny.loss_of(module, tiny.share(topology)).backward()
        norm = gradient_norm(module.parameters(), dist.group.WORLD)
        assert norm > 0.5
        clip_(list(module.parameters()), clip_factor(norm, 0.5))
        return gradient_norm(module.parameters(), dist.group.WORLD)

    assert run_world(layout.size, body) == [pytest.approx(0.5, rel=1e-5)] * layout.size


def test_gradients_of_several_meshes_and_of_none_make_one_norm() -> None:
    def body(rank: int) -> tuple[float, list[float]]:
        flat, square = (Topology.create(d, "cpu") for d in (Degrees(1, 4), Degrees(2, 2)))
        # A plain tensor is this rank's alone.
        parameters = [with_grad(3.0 if rank == 0 else 0.0)]
        for mesh in (flat.mesh(Role.PARAM), square.param_mesh["shard"]):
            assert mesh is not None
            parameter = nn.Parameter(distribute_tensor(torch.zeros(8), mesh, [Shard(0)]))
            parameter.grad = distribute_tensor(torch.full((8,), 2.0), mesh, [Shard(0)])
            parameters.append(parameter)
        norm = gradient_norm(parameters, dist.group.WORLD)
        clip_(parameters, clip_factor(norm, norm / 2))
        return norm, [p.grad.to_local()[0].item() for p in parameters[1:]]

    # The second mesh is a row of the square: both rows have a gradient of their own.
    norm = math.sqrt(9 + 8 * 4 + 2 * 8 * 4)
    assert run_world(4, body) == [(pytest.approx(norm), pytest.approx([1.0, 1.0]))] * 4


def test_parameters_without_a_gradient_count_nothing() -> None:
    frozen = nn.Parameter(torch.ones(3))
    assert gradient_norm([frozen, with_grad(3.0, 4.0)], None) == 5.0
    assert gradient_norm([frozen], None) == 0.0
    assert gradient_norm(iter([]), None) == 0.0
    clip_([frozen], 0.5)
    assert frozen.grad is None


@pytest.mark.parametrize("max_norm", [0.0, math.inf])
def test_zero_and_infinity_clip_nothing(max_norm: float) -> None:
    assert clip_factor(5.0, max_norm) == 1.0


def test_a_norm_below_the_bound_changes_no_bit() -> None:
    parameter = with_grad(0.1, 0.7)
    before = parameter.grad.clone()
    clip_([parameter], clip_factor(gradient_norm([parameter], None), 1.0))
    assert torch.equal(parameter.grad, before)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_norm_tells_of_a_gradient_that_is_not_finite_on_one_rank(value: float) -> None:
    def body(rank: int) -> bool:
        mesh = Topology.create(Degrees(1, 2), "cpu").mesh(Role.PARAM)
        parameter = nn.Parameter(distribute_tensor(torch.zeros(4), mesh, [Shard(0)]))
        parameter.grad = distribute_tensor(torch.ones(4), mesh, [Shard(0)])
        if rank == 1:
            parameter.grad.to_local()[0] = value
        return math.isfinite(gradient_norm([parameter], dist.group.WORLD))

    assert run_world(2, body) == [False, False]
