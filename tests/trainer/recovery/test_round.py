"""Ranks that meet in a store that outlives them: those that are there now, and no others."""

import threading
from collections.abc import Sequence

import pytest
from support.memory_store import MemoryStore

from keepstep.trainer.recovery.round import agree_on_round


def meet(store: MemoryStore, ranks: Sequence[int], size: int, seconds: float = 10.0) -> set[str]:
    """What the ranks agreed on, each in a thread of its own."""
    found: list[str] = []
    threads = [
        threading.Thread(
            target=lambda rank=rank: found.append(
                agree_on_round(store.client(), rank=rank, size=size, seconds=seconds)
            )
        )
        for rank in ranks
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(ranks)
    return set(found)


def test_all_ranks_of_a_start_have_one_name_and_no_other_start_has_it() -> None:
    store = MemoryStore()
    names = [meet(store, range(size), size) for size in (4, 2, 1, 3)]
    assert [len(found) for found in names] == [1, 1, 1, 1]
    assert len(set.union(*names)) == 4


def test_hellos_of_ranks_that_are_no_more_are_answered_and_do_not_count() -> None:
    store = MemoryStore()
    for rank in (1, 2):
        with pytest.raises(TimeoutError, match="an answer of rank 0"):
            agree_on_round(store.client(), rank=rank, size=3, seconds=0.05)
    with pytest.raises(TimeoutError, match="a word of each of 3 ranks"):
        agree_on_round(store.client(), rank=0, size=3, seconds=0.1)
    assert len(meet(store, range(3), 3)) == 1


def test_a_hello_that_was_counted_and_never_written_holds_nobody_up() -> None:
    store = MemoryStore()
    store.client().add("keepstep/hello/count", 1)
    assert len(meet(store, range(2), 2)) == 1
