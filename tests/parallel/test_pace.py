"""Of ranks that wait for one another it is known who was busy and who waited."""

import time

import pytest
import torch
import torch.distributed as dist
from support.world import run_world
from torch import nn

from keepstep.parallel import (
    Degrees,
    Exchange,
    ParallelConfig,
    Plan,
    Policy,
    PrecisionConfig,
    Topology,
    assemble,
    own_seconds,
)
from keepstep.parallel.flight import begun_between
from keepstep.parallel.pace import own_times

MS = 10**6


def at(*moments: int, group: str = "w") -> list[tuple[str, int]]:
    return [(group, moment * MS) for moment in moments]


def test_who_comes_last_to_each_collective_is_who_was_busy() -> None:
    # The second takes 50 ms before the first collective and 20 ms before the next; the first one
    # is there after 10, waits for 40, and takes 10 again.
    found = own_times([at(10, 60), at(50, 70)])
    assert found == pytest.approx([0.020, 0.070])


def test_even_ranks_have_the_whole_step_each() -> None:
    assert own_times([at(10, 21, 30), at(10, 20, 31)]) == pytest.approx([0.031, 0.030], abs=0.002)


def test_what_was_begun_before_others_came_to_the_last_one_costs_nothing() -> None:
    # The first begins its second collective ahead, and waits for the first only then.
    assert own_times([at(10, 12), at(50, 52)]) == pytest.approx([0.010, 0.052])


def test_a_rank_waits_for_its_own_groups_only() -> None:
    late, early = at(90, group="a"), at(10, group="b")
    every = [[*late, ("w", 95 * MS)], [*at(20, group="a"), ("w", 95 * MS)]]
    every += [[*early, ("w", 15 * MS)], [*early, ("w", 15 * MS)]]
    assert own_times(every) == pytest.approx([0.095, 0.025, 0.015, 0.015])


def test_ranks_that_have_not_begun_as_many_say_nothing() -> None:
    assert own_times([at(10, 20), at(10)]) is None


@pytest.mark.slow(but=["degrees0"])
@pytest.mark.parametrize("degrees", [{}, {"replicate": 4, "shard": 1}, {"replicate": 2}])
def test_the_slow_rank_shows_in_every_layout_of_data(degrees: dict[str, int]) -> None:
    def body(rank: int) -> list[float] | None:
        topology = Topology.create(Degrees.resolve(ParallelConfig(**degrees), 4), "cpu")
        module = assemble(
            lambda: nn.Sequential(*[nn.Linear(16, 16) for _ in range(3)]),
            plan=Plan(units=("*",)),
            topology=topology,
            policy=Policy.of(PrecisionConfig()),
            device=torch.device("cpu"),
            seed=0,
        )
        found, moments = None, [0, 0]
        for _ in range(3):
            for _ in range(2):
                time.sleep(0.25 if rank == 2 else 0.05)
                module(torch.ones(4, 16)).sum().backward()
            dist.all_reduce(torch.ones(1), group=topology.control)
            moments = [moments[1], time.time_ns()]
            found = own_seconds(Exchange(topology.control), begin=moments[0], end=moments[1])
        return found

    answers = run_world(4, body)
    assert answers[1:] == answers[:3], "all ranks know the same"
    own = answers[0]
    others = [own[rank] for rank in (0, 1, 3)]
    assert own[2] >= 0.5
    assert min(others) >= 0.1
    assert max(others) < 0.6 * own[2], "a busy machine makes the others' own times longer too"


def test_a_recorder_that_does_not_reach_back_says_nothing_on_all_ranks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCH_FR_BUFFER_SIZE", "8")

    def body(rank: int) -> tuple[bool, bool, bool]:
        begin = time.time_ns()
        for _ in range(12):
            dist.all_reduce(torch.ones(1))
        end = time.time_ns()
        whole = begun_between(begin, end)
        # Of one rank alone it would reach back.
        begin = begin if rank else end
        world = Exchange(dist.distributed_c10d._get_default_group())
        found = own_seconds(world, begin=begin, end=end)
        return whole is None, found is None, begun_between(end, end) == []

    assert run_world(2, body) == [(True, True, True)] * 2
