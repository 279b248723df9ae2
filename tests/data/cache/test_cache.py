"""The cache as its callers see it: hits, tiers, budgets, who goes, counters."""

import os
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from support.extents import (
    COST,
    EXTENT,
    OBJECT,
    OTHER,
    Configure,
    OpenCache,
    content,
    entry_file,
    files,
    fill,
    held,
    soonest_first,
    used_bytes,
)

from keepstep.data.cache import ExtentName
from keepstep.data.cache.policy import Floats


def test_what_was_put_is_read_back_by_every_cache_of_the_folder(open_cache: OpenCache) -> None:
    first, second = open_cache(), open_cache()
    assert first.get(OBJECT, 0) is None
    assert first.put(OBJECT, 0, content(OBJECT, 0))
    for cache in (first, second, first):
        view = cache.get(OBJECT, 0)
        assert view == content(OBJECT, 0)
        assert view is not None
        assert view.readonly
    assert first.counters()["disk"].hits == 2
    assert first.counters()["disk"].hit_bytes == 2 * EXTENT
    assert (first.misses, second.misses) == (1, 0)


@pytest.mark.parametrize("size", [0, 1, 4031, 4032, 4033, 100_000])
def test_an_extent_may_have_any_size(open_cache: OpenCache, size: int) -> None:
    cache, other = open_cache(100), open_cache(100)
    assert cache.put(OBJECT, 0, memoryview(content(OBJECT, 0, size)))
    assert other.get(OBJECT, 0) == content(OBJECT, 0, size)


def test_the_farthest_next_use_goes_first(open_cache: OpenCache, tmp_path: Path) -> None:
    cache = open_cache(4)
    cache.know([OBJECT], soonest_first)
    assert fill(cache, [9, 1, 7, 3]) == [True] * 4
    assert fill(cache, [2, 0]) == [True] * 2
    assert held(cache, 10) == [0, 1, 2, 3]
    assert cache.counters()["disk"].evictions == 2
    assert used_bytes(tmp_path) == 4 * COST


def test_a_newcomer_needed_after_all_others_is_bypassed(open_cache: OpenCache) -> None:
    cache = open_cache(3)
    cache.know([OBJECT], soonest_first)
    fill(cache, range(3))
    assert fill(cache, [5, 6]) == [False, False]
    assert held(cache, 8) == [0, 1, 2]
    assert cache.counters()["disk"].bypassed == cache.uncached == 2


def test_live_entries_of_others_are_not_touched(open_cache: OpenCache) -> None:
    theirs, ours = open_cache(3), open_cache(3)
    fill(theirs, range(3), OTHER)
    ours.know([OBJECT], soonest_first)
    assert fill(ours, [0, 1]) == [False, False]
    assert held(theirs, 3, OTHER) == [0, 1, 2]
    assert ours.counters()["disk"].refused == 2


def test_idle_entries_of_others_go_the_oldest_first(open_cache: OpenCache, tmp_path: Path) -> None:
    fill(open_cache(3), range(3), OTHER)
    for number, age in enumerate((5000, 9000, 100)):
        path = entry_file(tmp_path, number, OTHER)
        os.utime(path, times=(0, path.stat().st_mtime - age))
    ours = open_cache(3)
    ours.know([OBJECT], soonest_first)
    assert fill(ours, [5]) == [True]
    assert [path.name for path in files(tmp_path) if OTHER in path.name] == [
        f"{OTHER}-0",
        f"{OTHER}-2",
    ]
    assert fill(ours, [4, 3]) == [True, True]  # for 3 our own farthest goes, not their live one
    assert held(open_cache(3), 3, OTHER) == [2]
    assert held(ours, 9) == [3, 4]


def test_an_idle_entry_that_another_process_used_since_stays(
    open_cache: OpenCache, tmp_path: Path
) -> None:
    fill(open_cache(1), [0], OTHER)
    path = entry_file(tmp_path, 0, OTHER)
    os.utime(path, times=(0, path.stat().st_mtime - 9000))
    ours = open_cache(1)
    assert open_cache(1).get(OTHER, 0) == content(OTHER, 0)  # touches it
    assert fill(ours, [0]) == [False]
    assert held(ours, 1, OTHER) == [0]


def test_what_memory_evicts_moves_down_to_disk(open_cache: OpenCache) -> None:
    cache = open_cache(2, 2)
    cache.know([OBJECT], soonest_first)
    assert fill(cache, [5, 4, 3, 2, 1, 0]) == [True] * 6
    assert held(cache, 6) == [0, 1, 2, 3]
    counters = cache.counters()
    assert (counters["ram"].hits, counters["disk"].hits) == (2, 2)
    assert (counters["ram"].evictions, counters["disk"].evictions) == (4, 2)


def test_what_memory_does_not_admit_is_offered_to_disk(open_cache: OpenCache) -> None:
    cache = open_cache(2, 1)
    cache.know([OBJECT], soonest_first)
    assert fill(cache, [0, 3, 2, 9]) == [True, True, True, False]
    assert held(cache, 10) == [0, 2, 3]
    assert cache.counters()["ram"].hits == 1


def test_nothing_that_is_never_needed_again_moves_down(open_cache: OpenCache) -> None:
    cache = open_cache(4, 1)
    now = [np.inf]
    cache.know([OBJECT], lambda names: np.full(len(names), now[0]))
    fill(cache, [0])
    cache.know([OTHER], lambda names: np.zeros(len(names)))
    fill(cache, [0], OTHER)
    assert held(cache, 1) == []
    assert cache.counters()["disk"].puts == 0


def test_a_reader_keeps_its_view_through_eviction(open_cache: OpenCache, tmp_path: Path) -> None:
    cache = open_cache(1)
    cache.know([OBJECT], soonest_first)
    fill(cache, [9])
    view = cache.get(OBJECT, 9)
    fill(cache, [8, 7])
    assert not list(tmp_path.glob(f"**/{OBJECT}-9"))
    assert cache.get(OBJECT, 9) is None
    cache.close()
    assert view == content(OBJECT, 9)


def test_maps_of_what_another_cache_evicted_are_let_go(open_cache: OpenCache) -> None:
    reader, writer = open_cache(1), open_cache(1)
    writer.know([OBJECT], soonest_first)
    fill(writer, [9])
    assert held(reader, 10) == [9]
    fill(writer, [8])
    fill(reader, [10])  # bypassed, but hears of it
    assert held(reader, 10) == [8]


def test_only_so_many_maps_stay_open(open_cache: OpenCache) -> None:
    cache = open_cache(8, open_maps=2)
    fill(cache, range(6))
    held(cache, 6)
    assert len(cache._maps) == 2
    assert held(cache, 6) == list(range(6))


def test_the_free_floor_is_kept_and_what_has_no_room_is_refused(
    open_cache: OpenCache, tmp_path: Path
) -> None:
    facts = os.statvfs(tmp_path)
    cache = open_cache(8, free_bytes=facts.f_blocks * facts.f_frsize + COST)
    assert fill(cache, range(2)) == [False, False]
    assert cache.counters()["disk"].refused == 2
    assert files(tmp_path) == []


def test_an_extent_larger_than_the_budget_is_refused_and_evicts_nothing(
    open_cache: OpenCache,
) -> None:
    cache = open_cache(2)
    cache.know([OBJECT], soonest_first)
    fill(cache, [8, 9])
    assert not cache.put(OBJECT, 0, bytes(3 * COST))
    assert held(cache, 10) == [8, 9]


def test_without_tiers_everything_is_handed_on(open_cache: OpenCache) -> None:
    cache = open_cache(0)
    assert fill(cache, [0]) == [False]
    assert cache.get(OBJECT, 0) is None
    lease = cache.lease(OBJECT, 0)
    assert lease is not None
    assert cache.lease(OBJECT, 0) is None
    assert (cache.uncached, cache.misses, cache.counters()) == (1, 1, {})


def test_close_is_safe_twice_and_a_closed_cache_holds_nothing(open_cache: OpenCache) -> None:
    cache = open_cache(2, 2)
    fill(cache, [0])
    cache.close()
    cache.close()
    assert cache.get(OBJECT, 0) is None
    assert not cache.put(OBJECT, 0, b"x")
    assert held(open_cache(2, 2), 1) == [0]


def test_what_was_deleted_by_hand_is_put_again(
    open_cache: OpenCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keepstep.data.cache.tier._SCAN_AGAIN_SECONDS", 0.0)
    cache = open_cache(2)
    fill(cache, [0, 1])
    for path in files(tmp_path):
        path.unlink()
    cache._maps.clear()
    assert held(cache, 2) == []
    assert fill(cache, [0, 1]) == [True, True]
    assert held(cache, 2) == [0, 1]


def test_a_lower_budget_is_met_at_the_next_put(open_cache: OpenCache, tmp_path: Path) -> None:
    fill(open_cache(8), range(1, 9))
    cache = open_cache(3)
    cache.know([OBJECT], soonest_first)
    fill(cache, [0])
    assert used_bytes(tmp_path) == 3 * COST
    assert held(cache, 9) == [0, 1, 2]


def test_more_changes_than_the_ledger_remembers_are_counted_anew(
    open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("keepstep.data.cache.ledger.SLOTS", 4)
    first, second = open_cache(4), open_cache(4)
    for cache in (first, second):
        cache.know([OBJECT], soonest_first)
    fill(first, [20, 19, 18, 17, 16, 15, 14])
    assert fill(second, [13]) == [True]
    assert held(open_cache(4), 30) == [13, 14, 15, 16]
    assert used_bytes(tmp_path) == 4 * COST


def test_threads_share_one_cache(open_cache: OpenCache, tmp_path: Path) -> None:
    cache = open_cache(6, 3, open_maps=3)
    cache.know([OBJECT], soonest_first)
    wrong: list[object] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            for number in rng.integers(0, 20, 120).tolist():
                view = cache.get(OBJECT, number)
                if view is None:
                    cache.put(OBJECT, number, content(OBJECT, number))
                elif view != content(OBJECT, number):
                    wrong.append(number)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert used_bytes(tmp_path / "disk") <= 6 * COST
    assert used_bytes(tmp_path / "ram") <= 3 * COST


def test_the_cache_itself_is_near_belady(open_cache: OpenCache) -> None:
    """Five epochs over 40 extents with room for 20, of which half must be fetched again."""
    rng = np.random.default_rng(0)
    sequence = [int(x) for _ in range(5) for x in rng.permutation(40)]
    now = [0]

    def next_use(names: Sequence[ExtentName]) -> Floats:
        left = sequence[now[0] + 1 :]
        return np.array([left.index(n.number) if n.number in left else np.inf for n in names])

    cache = open_cache(20)
    cache.know([OBJECT], next_use)
    fetched = [0] * 5
    for now[0], number in enumerate(sequence):
        if cache.get(OBJECT, number) is None:
            fetched[now[0] // 40] += 1
            cache.put(OBJECT, number, content(OBJECT, number))
    assert fetched[0] == 40
    assert sum(fetched[1:4]) <= 3 * 20 * 17 / 16


def test_settings_of_another_job_do_not_matter(configure: Configure, open_cache: OpenCache) -> None:
    fill(open_cache(4), range(4))
    assert held(open_cache(4, idle_seconds=1.0, rescan_seconds=9.0), 4) == [0, 1, 2, 3]
