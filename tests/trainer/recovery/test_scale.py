"""What a recovery asks of the store grows with the ranks and no faster: counted at 4096 of them."""

import pytest
from support.memory_store import Client, MemoryStore

from keepstep.trainer.recovery.generation import Failure, Generations

RANKS = 4096


def fleet(size: int) -> tuple[list[Generations], list[Client]]:
    store = MemoryStore()
    clients = [store.client() for _ in range(size)]
    return [Generations(client, rank, size) for rank, client in enumerate(clients)], clients  # type: ignore[arg-type]


def failure(rank: int) -> Failure:
    return Failure(rank=rank, step=9, cause="killed", reason="killed by SIGKILL", time=1.0)


def recover(guardians: list[Generations], failed: list[int]) -> None:
    """What each guardian does with the store over the end of generation 0 and the begin of 1."""
    for rank in failed:
        guardians[rank].raise_from(0, failure(rank))
    for one in guardians:  # the order of a real store: all hear of it, then all go on
        assert not one.wait_turn(0).is_end
        one.note_over(0, -1)
        one.arrive("here", 1)
    assert guardians[0].failures(0)


@pytest.mark.parametrize("failed", [[17], list(range(64)), list(range(RANKS))])
def test_a_recovery_costs_each_rank_a_few_words_however_many_fail(failed: list[int]) -> None:
    guardians, clients = fleet(RANKS)
    recover(guardians, failed)
    calls = [sum(client.calls.values()) for client in clients]
    assert max(calls[1:]) <= 10
    assert calls[0] <= 10 + 2 * 32  # rank 0 reads of the failures that are heard
    assert sum(client.num_bytes for client in clients) <= 700 * RANKS


def test_the_start_and_the_end_of_a_job_cost_each_rank_a_few_words() -> None:
    small, large = [fleet(size) for size in (64, RANKS)]
    totals = []
    for guardians, clients in (small, large):
        size = len(guardians)
        guardians[0].store.set("config", "digest")  # who waits here finds it
        guardians[0].store.set("started/0/all", "1")
        for one in guardians:
            one.agree_on_start(1.0, "digest")
        last = [one.arrive("done", 0) for one in guardians]
        assert last == [False] * (size - 1) + [True]
        totals.append(sum(sum(client.calls.values()) for client in clients) / size)
    assert totals[1] == pytest.approx(totals[0], rel=0.05)
    assert totals[1] <= 12
