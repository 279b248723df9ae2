"""Loads of a step: summed over ranks, applied or not, reported, and begun anew."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from support.world import run_world
from torch import nn

from keepstep.parallel import Balance, Degrees, ParallelConfig, Plan, Router, Topology

LOADS = torch.tensor([[4, 0, 0, 0], [1, 1, 1, 1]])


def routers(*, bias_rate: float = 0.5) -> nn.ModuleList:
    return nn.ModuleList(Router(4, 3, top_k=2, bias_rate=bias_rate) for _ in LOADS)


def stepped(rank: int, config: ParallelConfig, applied: bool) -> tuple[Any, ...]:
    """Each rank counts what is in LOADS, the second rank in the other order of experts."""
    topology = Topology.create(Degrees.resolve(config, dist.get_world_size()), "cpu")
    module = routers()
    for router, loads in zip(module, LOADS, strict=True):
        router.load_E += loads.flip(0) if rank else loads
    balance = Balance(module, Plan(num_experts=4), topology)
    balance.end_step(applied)
    biases = [router.e_score_correction_bias.tolist() for router in module]
    left = sum(int(router.load_E.sum()) for router in module)
    return biases, left, balance.statistics()


def test_ranks_that_share_the_data_move_by_the_sum_of_their_loads() -> None:
    one, two = run_world(2, stepped, ParallelConfig(), True)
    assert one == two
    biases, left, statistics = one
    assert biases == [[-0.5, 0.5, 0.5, -0.5], [0.0, 0.0, 0.0, 0.0]]
    assert left == 0
    assert statistics == {
        "router_max_load": 2.0,
        "router_min_load": 0.0,
        "router_entropy": pytest.approx((0.5 + 1) / 2),
    }


def test_ranks_of_a_sequence_count_together_and_those_of_a_matrix_once() -> None:
    for config, entropy in ((ParallelConfig(context=2), 0.5), (ParallelConfig(tensor=2), 0.0)):
        found = run_world(2, stepped, config, True)
        assert found[0][2]["router_entropy"] == pytest.approx((entropy + 1) / 2)


def test_a_step_that_is_skipped_moves_nothing_and_is_forgotten() -> None:
    ((biases, left, statistics),) = run_world(1, stepped, ParallelConfig(), False)
    assert (biases, left) == ([[0.0] * 4] * 2, 0)
    assert statistics["router_max_load"] == 4.0


def test_every_stage_says_the_loads_of_all_of_them() -> None:
    def body(rank: int) -> dict[str, float]:
        config = ParallelConfig(pipeline=3)
        topology = Topology.create(Degrees.resolve(config, 3), "cpu")
        module = nn.ModuleList() if rank == 2 else nn.ModuleList([routers()[0]])
        for router in module:
            router.load_E += LOADS[rank]
        balance = Balance(module, Plan(num_experts=4), topology)
        balance.end_step(True)
        return balance.statistics()

    wanted = {"router_max_load": 4.0, "router_min_load": 0.0, "router_entropy": 0.5}
    assert run_world(3, body) == [pytest.approx(wanted)] * 3


def test_a_model_without_experts_has_nothing_to_say() -> None:
    def body(rank: int) -> dict[str, float]:
        topology = Topology.create(Degrees.resolve(ParallelConfig(), 1), "cpu")
        balance = Balance(nn.Linear(2, 2), Plan(), topology)
        balance.begin_step(lambda: 1.0)
        balance.end_step(True)
        return balance.statistics()

    assert run_world(1, body) == [{}]


def test_what_the_loss_counts_in_backward_reaches_every_router() -> None:
    def body(rank: int) -> list[float]:
        topology = Topology.create(Degrees.resolve(ParallelConfig(), 1), "cpu")
        module = routers()
        Balance(module, Plan(num_experts=4), topology).begin_step(lambda: 0.25)
        return [router.unit() for router in module]

    assert run_world(1, body) == [[0.25, 0.25]]
