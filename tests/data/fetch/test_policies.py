"""The fetcher's policies as pure functions of what happened when."""

import random
import statistics
from concurrent.futures import Future

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepstep.data.fetch import FetchConfig
from keepstep.data.fetch.backoff import next_wait
from keepstep.data.fetch.health import Health, Outage
from keepstep.data.fetch.hedges import Hedges
from keepstep.data.fetch.latencies import Latencies
from keepstep.data.fetch.limit import Limit
from keepstep.data.fetch.ranges import Queue, Range
from keepstep.data.store import StoredObject

OBJ = StoredObject("memory://x", 100)


def play(limit: Limit, capacity: int, rounds: int, now: float = 0.0) -> float:
    """Rounds of full requests through what lets `capacity` of them through at once."""
    for _ in range(rounds):
        count = max(limit.value, 8)
        now += 0.1 * max(1.0, limit.value / capacity) * count / limit.value
        for _ in range(count):
            limit.succeeded(now, 1000, limit.value)
    return now


def test_the_limit_rises_while_more_comes_in_and_stops_where_no_more_does() -> None:
    limit = Limit(least=2, start=8, most=96)
    play(limit, capacity=40, rounds=200)
    assert 32 <= limit.value <= 48
    wide = Limit(least=2, start=8, most=96)
    play(wide, capacity=10_000, rounds=300)
    assert wide.value == 96


def test_a_limit_that_is_not_used_up_says_nothing() -> None:
    limit = Limit(least=2, start=8, most=96)
    for moment in range(1000):
        limit.succeeded(float(moment), 1000, 3)
    assert limit.value == 8


def test_throttles_lower_the_limit_once_a_round_and_it_grows_back_to_the_start() -> None:
    limit = Limit(least=2, start=32, most=96)
    for _ in range(30):
        limit.throttled(now=5.0, began=4.9)  # all were in flight together
    assert limit.value == 19
    limit.throttled(now=5.2, began=5.1)
    assert limit.value == 11
    for moment in range(20):
        limit.throttled(now=6.0 + moment, began=5.9 + moment)
    assert limit.value == 2
    play(limit, capacity=1, rounds=29, now=100.0)
    assert limit.value == 31


@given(st.integers(0, 2**32), st.floats(0.01, 1.0), st.integers(1, 60))
def test_waits_stay_within_their_bounds_and_grow(seed: int, least: float, steps: int) -> None:
    uniform = random.Random(seed).random
    wait = 0.0
    for _ in range(steps):
        before, wait = wait, next_wait(wait, least=least, most=3.0, uniform=uniform)
        assert 0.5 * least <= wait <= min(3.0, max(1.5 * least, 3 * before))


def test_waits_of_those_who_failed_together_drift_apart() -> None:
    uniform = random.Random(1).random
    waits = [0.0] * 100
    for _ in range(8):
        waits = [next_wait(w, least=0.05, most=60.0, uniform=uniform) for w in waits]
    assert statistics.stdev(waits) > 0.3 * statistics.mean(waits)


@given(st.lists(st.floats(0.001, 100.0), min_size=1, max_size=300), st.floats(0.0, 1.0))
def test_quantiles_are_right_to_a_tenth(seconds: list[float], share: float) -> None:
    seen = Latencies()
    for one in seconds:
        seen.add(one)
    place = max(0, -int(-share * len(seconds) // 1) - 1)
    assert sorted(seconds)[place] * 0.999 <= seen.quantile(share) * 1.0001
    assert seen.quantile(share) <= sorted(seconds)[min(place + 1, len(seconds) - 1)] * 1.1001


def test_quantiles_follow_what_is_recent() -> None:
    seen = Latencies()
    assert seen.quantiles == (0.0, 0.0, 0.0)
    for seconds in (0.01, 1.0):
        for _ in range(20_000):
            seen.add(seconds)
    assert seen.quantile(0.05) > 0.9


def hedges(share: float = 0.05) -> Hedges:
    return Hedges(share=share, slack_seconds=2.0, first_seconds=0.25)


def test_a_request_is_late_beyond_what_its_size_takes() -> None:
    one = hedges()
    assert one.is_late(now=0.3, size=4096, began=0.0, due=1.0)
    assert not one.is_late(now=0.2, size=4096, began=0.0, due=1.0)
    for number in range(100):
        one.succeeded(4096, 0.03 if number < 97 else 0.5)
        one.succeeded(1 << 22, 1.0)
    assert 0.03 <= one.late_seconds(4096) < 0.034
    assert one.is_late(now=0.1, size=4096, began=0.0, due=1.0)
    assert not one.is_late(now=0.9, size=1 << 22, began=0.0, due=1.0)


def test_nothing_is_hedged_that_has_time_or_while_the_store_throttles() -> None:
    one = hedges()
    assert not one.is_late(now=10.0, size=1, began=0.0, due=12.1)
    assert one.is_late(now=10.0, size=1, began=0.0, due=11.9)
    one.throttled(9.5)
    assert not one.is_late(now=10.0, size=1, began=0.0, due=11.9)
    assert one.is_late(now=10.6, size=1, began=0.0, due=11.9)


@pytest.mark.parametrize(("wins", "least", "most"), [(True, 500, 504), (False, 20, 150)])
def test_hedges_stay_within_their_share_and_fall_where_they_lose(
    wins: bool, least: int, most: int
) -> None:
    one = hedges()
    for _ in range(10_000):
        one.requests += 1
        if one.is_late(now=10.0, size=1, began=0.0, due=0.0):
            one.hedges += 1
            one.won += wins
    assert least <= one.hedges <= most
    none = hedges(share=0.0)
    assert not none.is_late(now=10.0, size=1, began=0.0, due=0.0)


def test_an_outage_is_many_failures_over_some_time_and_ends_with_one_success() -> None:
    health = Health()
    for moment in range(7):
        health.failed(10.0 + 0.001 * moment, "no answer")
    assert health.outage is None
    health.failed(10.1, "no answer")
    assert health.outage is None, "all that were in flight may fail together once"
    health.failed(10.6, "still none")
    assert health.outage == Outage(10.0, "still none")
    assert health.succeeded()
    assert health.outage is None
    assert not health.succeeded()


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=40))
def test_what_is_due_first_comes_first_whatever_was_hurried(dues: list[tuple[int, int]]) -> None:
    queue = Queue()
    ranges = [Range(OBJ, 0, 1, due, None) for due, _ in dues]
    for one in ranges:
        queue.push(one)
    for one, (_, sooner) in zip(ranges, dues, strict=True):
        queue.hurry(one, sooner)
    assert len(queue) == len(dues)
    found = [queue.pop() for _ in dues]
    assert [one.due for one in found if one] == sorted(min(pair) for pair in dues)
    assert queue.pop() is None
    assert len(queue) == 0


def test_what_was_cancelled_is_passed_over() -> None:
    queue = Queue()
    one, two = Range(OBJ, 0, 1, 1.0, None), Range(OBJ, 0, 1, 2.0, None)
    queue.push(one)
    queue.push(two)
    assert one.cancel()
    assert queue.pop() is two
    assert isinstance(two, Future)
    assert not two.cancel()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"least_in_flight": 70}, "found least_in_flight=70, start_in_flight=64"),
        ({"attempts": 0}, r"fetch\.attempts: found 0, needed 1 or more"),
        ({"backoff_seconds": 9.0}, r"fetch\.backoff_seconds: found 9\.0"),
        ({"hedge_share": 2.0}, r"fetch\.hedge_share: found 2\.0"),
    ],
)
def test_settings_are_checked(words: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        FetchConfig(**words)  # type: ignore[arg-type]
