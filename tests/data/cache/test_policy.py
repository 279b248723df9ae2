"""Eviction as pure functions: Belady is optimal, others' live entries stay, bypass spares."""

import itertools
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keepstep.data.cache import Verdict, eviction_order, victims

NAN, INF = float("nan"), float("inf")


def fetches(sequence: list[int], capacity: int) -> int:
    """Fetches of a cache of unit entries that follows the policy through a sequence."""
    after = next_uses(sequence)
    held: dict[int, float] = {}
    count = 0
    for item, use in zip(sequence, after, strict=True):
        if item not in held:
            count += 1
            names, uses = list(held), np.array(list(held.values()), dtype=np.float64)
            order = eviction_order(uses, np.zeros(len(held)), 1.0).tolist()
            queue = ((1, float(uses[place])) for place in order)
            gone = victims(queue, len(held) + 1 - capacity, use)
            if isinstance(gone, Verdict):
                continue
            for place in order[:gone]:
                del held[names[place]]
        held[item] = use
    return count


def next_uses(sequence: list[int]) -> list[float]:
    seen: dict[int, int] = {}
    found = [INF] * len(sequence)
    for place in range(len(sequence) - 1, -1, -1):
        found[place] = seen.get(sequence[place], INF)
        seen[sequence[place]] = place
    return found


def fewest_fetches(sequence: list[int], capacity: int) -> int:
    """The least of all choices, each tried: who goes, or that the newcomer is not kept."""

    @cache
    def best(place: int, held: frozenset[int]) -> int:
        if place == len(sequence):
            return 0
        item = sequence[place]
        if item in held:
            return best(place + 1, held)
        kept = itertools.combinations(sorted(held | {item}), min(len(held) + 1, capacity))
        return 1 + min(best(place + 1, frozenset(one)) for one in kept)

    return best(0, frozenset())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 5), max_size=12), st.integers(1, 4))
def test_no_choice_of_victims_fetches_less(sequence: list[int], capacity: int) -> None:
    assert fetches(sequence, capacity) == fewest_fetches(sequence, capacity)


@pytest.mark.parametrize(
    ("share", "published"),
    [(0.10, 0.900), (0.25, 0.750), (0.50, 0.500), (0.75, 0.250), (0.90, 0.102)],
)
def test_a_steady_epoch_refetches_what_the_cache_cannot_hold(
    share: float, published: float
) -> None:
    """512 shards, each read three times within a window of 16, in a new permutation each epoch."""
    rng = np.random.default_rng(1)
    epochs: list[list[int]] = []
    for _ in range(3):
        windows = rng.permutation(512).reshape(-1, 16)
        epochs.append([int(x) for w in windows for x in rng.permutation(np.repeat(w, 3))])
    whole = fetches([x for epoch in epochs for x in epoch], round(512 * share))
    first = fetches(epochs[0], round(512 * share))
    assert first == 512
    assert (whole - first) / (2 * 512) == pytest.approx(published, rel=0.01, abs=0.003)


def test_a_cache_smaller_than_the_window_fetches_each_shard_less_than_twice() -> None:
    rng = np.random.default_rng(2)
    windows = rng.permutation(512).reshape(-1, 16)
    sequence = [int(x) for w in windows for x in rng.permutation(np.repeat(w, 16))]
    assert fetches(sequence, 12) / 512 < 2.5 < len(sequence) / 512


def test_idle_strangers_go_first_and_the_oldest_of_them_before_all() -> None:
    uses = np.array([5.0, NAN, INF, NAN, 9.0, NAN])
    ages = np.array([0.0, 70.0, 0.0, 90.0, 0.0, 10.0])
    assert eviction_order(uses, ages, 60.0).tolist() == [3, 1, 2, 4, 0]


def test_a_stranger_in_use_never_goes() -> None:
    order = eviction_order(np.array([NAN, NAN]), np.array([59.0, -500.0]), 60.0)
    assert order.tolist() == []
    assert victims([], 1, 0.0) is Verdict.refuse


@pytest.mark.parametrize(
    ("queue", "needed", "use", "verdict"),
    [
        ([(4, INF), (4, 7.0)], 0, 9.0, 0),
        ([(4, INF), (4, 7.0)], 4, 9.0, 1),
        ([(4, INF), (4, 7.0)], 5, 6.0, 2),
        ([(4, INF), (4, 7.0)], 5, 9.0, Verdict.bypass),
        ([(4, 7.0)], 4, 7.0, Verdict.bypass),
        ([(4, INF)], 4, INF, Verdict.bypass),
        ([(4, INF)], 4, NAN, 1),
        ([(4, 7.0)], 4, NAN, Verdict.bypass),
        ([(4, NAN)], 4, INF, 1),
        ([(4, NAN), (4, 9.0)], 9, 1.0, Verdict.refuse),
    ],
)
def test_room_is_made_only_by_those_who_may_go(
    queue: list[tuple[int, float]], needed: int, use: float, verdict: int | Verdict
) -> None:
    assert victims(queue, needed, use) == verdict
