"""The generation protocol over a real TCPStore, among forked guardians that race."""

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from support.world import run_world
from torch.distributed import PrefixStore, TCPStore

from keepstep.trainer.recovery.generation import Failure, Generations, Turn


def failure(rank: int, *, moment: float = 1.0) -> Failure:
    return Failure(rank=rank, step=3, cause="killed", reason="killed by SIGKILL", time=moment)


def among(size: int, body: Callable[[Generations], Any]) -> list[Any]:
    """`body(generations)` on `size` forked ranks, begun together; rank 0 hosts the store."""

    def guardian(rank: int) -> Any:
        host = (
            TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) if not rank else None
        )
        port = torch.tensor(host.port if host else 0)
        dist.broadcast(port, 0)
        client = TCPStore("127.0.0.1", int(port), is_master=False, wait_for_workers=False)
        generations = Generations(PrefixStore("job", client), rank, size)
        dist.barrier()
        answer = body(generations)
        dist.barrier()
        return answer

    return run_world(size, guardian)


def test_of_four_that_raise_a_generation_at_once_one_wins_each_time() -> None:
    def body(generations: Generations) -> list[bool]:
        won = []
        for generation in range(10):
            dist.barrier()
            won.append(generations.raise_from(generation, failure(generations.rank)))
        return won

    for turn in zip(*among(4, body), strict=True):
        assert sum(turn) == 1


def test_a_turn_is_seen_by_all_and_says_what_follows() -> None:
    def body(generations: Generations) -> list[Turn | None]:
        if generations.rank == 1:
            generations.raise_from(0, failure(1), afresh=True)
            generations.raise_from(1, failure(1), culprit=0)
        dist.barrier()
        return [generations.turn(number) for number in range(3)]

    turns = [Turn(by=1, afresh=True), Turn(by=1, culprit=0), None]
    assert among(2, body) == [turns] * 2


def test_one_that_is_late_does_not_raise_a_generation_that_is_over() -> None:
    def body(generations: Generations) -> tuple[bool, Turn | None]:
        generations.end(0, 2, "a reason")
        return generations.raise_from(0, failure(0)), generations.turn(0)

    assert among(1, body) == [(False, Turn(by=0, code=2, reason="a reason"))]


def test_the_first_call_of_the_end_counts_for_all() -> None:
    def body(generations: Generations) -> Turn | None:
        generations.end(0, generations.rank + 1, f"said by {generations.rank}")
        dist.barrier()
        generations.end(0, 75, "too late")
        return generations.turn(0)

    ends = among(4, body)
    assert ends[0] in [Turn(by=rank, code=rank + 1, reason=f"said by {rank}") for rank in range(4)]
    assert ends == [ends[0]] * 4


def test_who_waits_for_a_turn_sleeps_until_it_comes() -> None:
    def body(generations: Generations) -> tuple[Turn, float]:
        if generations.rank == 1:
            time.sleep(0.2)
            generations.end(0, 0)
        begun, spent = time.monotonic(), time.process_time()
        turn = generations.wait_turn(0)
        assert time.process_time() - spent < 0.05
        return turn, time.monotonic() - begun

    (first, waited), (second, _) = among(2, body)
    assert first == second == Turn(by=1, code=0)
    assert waited > 0.1


def test_all_have_arrived_only_when_the_last_has() -> None:
    def body(generations: Generations) -> list[bool]:
        if generations.rank != 2:
            generations.arrive("ready", 1)
        dist.barrier()
        early = generations.all_arrived("ready", 1)
        dist.barrier()
        generations.arrive("ready", 1)
        dist.barrier()
        return [early, generations.all_arrived("ready", 1), generations.all_arrived("ready", 2)]

    assert among(3, body) == [[False, True, False]] * 3


def test_the_start_is_the_same_for_all_and_names_the_odd_configurations() -> None:
    def body(generations: Generations) -> tuple[float, dict[int, str]]:
        kind = "a" if generations.rank < 2 else "b"
        return generations.agree_on_start(100.0 + generations.rank, kind)

    answers = among(3, body)
    assert answers[0][0] in (100.0, 101.0, 102.0)
    assert answers[0][1] == {0: "a", 2: "b"}
    assert answers == [answers[0]] * 3


def test_where_all_configurations_are_the_same_none_is_named() -> None:
    def body(generations: Generations) -> dict[int, str]:
        return generations.agree_on_start(1.0, "a")[1]

    assert among(3, body) == [{}] * 3


def test_all_that_was_noted_of_a_generations_end_is_found_by_all() -> None:
    def body(generations: Generations) -> list[list[Failure]]:
        if generations.rank != 1:
            generations.raise_from(0, failure(generations.rank, moment=50.0))
        dist.barrier()
        return [generations.failures(0), generations.failures(1)]

    assert among(3, body) == [[[failure(0, moment=50.0), failure(2, moment=50.0)], []]] * 3


def test_those_who_have_not_come_are_named() -> None:
    def body(generations: Generations) -> list[int]:
        if generations.rank % 2:
            generations.arrive("ready", 3)
        dist.barrier()
        return generations.missing("ready", 3)

    assert among(4, body) == [[0, 2]] * 4


def test_of_the_late_the_one_the_others_wait_for_is_behind() -> None:
    places = [((5, 6), 9.0), ((5, 5), 9.5), ((5, 6), 8.0), None]

    def body(generations: Generations) -> tuple[bool, list[int]]:
        place, asks = places[generations.rank], False
        if place is not None:
            asks = generations.note_late(0, *place)
            generations.note_late(1, (5, 6), place[1])
        dist.barrier()
        return asks, [generations.furthest_behind(number).rank for number in range(2)]

    answers = among(4, body)
    assert [behind for _, behind in answers] == [[1, 2]] * 4
    assert sum(asks for asks, _ in answers) == 1


def test_of_the_late_at_one_place_the_one_in_no_collective_is_waited_for() -> None:
    def body(generations: Generations) -> tuple[int, str]:
        generations.note_late(0, (5, 6), 9.0 + generations.rank)
        waits = [
            "all_reduce 7 of group shard",
            "all_reduce 7 of group shard",
            "",
            "send 2 of group p",
        ]
        generations.note_waits(0, waits[generations.rank])
        dist.barrier()
        found = generations.furthest_behind(0)
        return found.rank, found.waits

    assert among(4, body) == [(2, "ranks [0, 1] wait in all_reduce 7 of group shard")] * 4


def test_the_host_waits_for_the_others_to_leave_and_not_forever() -> None:
    def body(generations: Generations) -> float:
        begun = time.monotonic()
        if generations.rank == 1:
            time.sleep(0.2)
        generations.arrive("gone", 0)
        if generations.rank == 0:
            generations.wait_all("gone", 0, seconds=5.0)
        return time.monotonic() - begun

    assert 0.15 < among(2, body)[0] < 4.0

    def alone(generations: Generations) -> float:
        begun = time.monotonic()
        generations.wait_all("gone", 0, seconds=0.1)
        return time.monotonic() - begun

    assert 0.1 <= among(1, alone)[0] < 2.0
