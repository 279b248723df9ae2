"""Headers and groups are kept within a budget, made once however many threads want them."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest

from keepstep.data import CorruptDataError
from keepstep.data.access import LocalAccess, Ranges
from keepstep.data.lock import lock
from keepstep.data.sources.kept import Kept
from keepstep.data.sources.open import open_records
from keepstep.data.sources.pieces import Window, in_parallel
from keepstep.data.sources.records.offsets import CountedHeaders, header_offsets
from keepstep.data.store import LocalStore

FIXTURES = Path(__file__).parent.parent / "fixtures"


class Watched(LocalAccess):  # type: ignore[misc]
    """Keeps every range that was read or wanted."""

    def __init__(self, objects: Any) -> None:
        super().__init__(objects)
        self.ranges: list[tuple[int, int, int]] = []
        self.wanted: list[tuple[int, int, int]] = []

    def read(self, ranges: Ranges) -> list[memoryview]:
        self.ranges += zip(*(column.tolist() for column in ranges), strict=True)
        return super().read(ranges)

    def want(self, ranges: Ranges, due: Any) -> None:
        assert len(due) == len(ranges.objects)
        self.wanted = list(zip(*(column.tolist() for column in ranges), strict=True))


def test_the_values_used_longest_ago_go_first() -> None:
    kept: Kept[str, bytes] = Kept(10, len)
    for key in ("a", "b"):
        kept.get(key, lambda: b"1234")
    kept.peek("a")
    kept.get("c", lambda: b"12345")
    assert kept.peek("b") is None
    assert kept.peek("a") == b"1234"
    kept.put("huge", b"x" * 100)
    assert kept.peek("huge") is not None
    assert kept.peek("a") is None


def test_a_value_is_made_by_one_thread_and_again_after_a_failure() -> None:
    kept: Kept[int, list[int]] = Kept(100, len)
    made: list[int] = []
    barrier = Barrier(4)

    def make() -> list[int]:
        made.append(1)
        if len(made) == 1:
            raise OSError("the first fails")
        return [len(made)]

    def get(_: int) -> object:
        barrier.wait()
        try:
            return kept.get(1, make)
        except OSError as error:
            return error

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(get, range(4)))
    assert sum(isinstance(one, OSError) for one in found) == 1
    assert [one for one in found if not isinstance(one, OSError)] == [[2]] * 3


def test_a_header_is_read_once_and_samples_by_their_own_bytes() -> None:
    dataset = lock(str(FIXTURES / "mds" / "merged" / "first"), LocalStore())
    access = Watched(dataset.objects)
    records = open_records(dataset, access)
    records.want(np.array([0, 1]), np.zeros(2))
    # The header is wanted once, and each sample about where it lies.
    assert access.wanted[0] == (0, 0, 4 * (10 + 2))
    assert [place for place, _, _ in access.wanted] == [0, 0, 0]
    records.records(np.array([3, 11, 3]))
    heads = [one for one in access.ranges if one[1] == 0]
    assert sorted(place for place, _, _ in heads) == [0, 1]
    access.ranges.clear()
    records.want(np.array([2]), np.zeros(1))
    records.records(np.array([2]))
    assert access.ranges == access.wanted
    assert len(access.ranges) == 1


def test_headers_beyond_the_budget_are_read_again() -> None:
    dataset = lock(str(FIXTURES / "mds" / "merged" / "first"), LocalStore())
    access = Watched(dataset.objects)
    headers = CountedHeaders(dataset, access)
    offsets = header_offsets(dataset, headers, kept_bytes=1)
    places, rows, due = np.array([0, 1, 0]), np.array([3, 4, 5]), np.array([3.0, 2.0, 1.0])
    for place in (0, 1, 0, 0):
        offsets.ranges(np.array([place]), np.array([0]))
    assert [place for place, _, _ in access.ranges] == [0, 1, 0]
    # Of object 0 the header is here; that of object 1 is wanted, and its sample guessed.
    wanted = offsets.likely(places, rows, due)
    exact = offsets.ranges(places, rows)
    assert wanted.ranges.objects.tolist() == [0, 0, 1, 1]
    assert wanted.ranges.starts[:2].tolist() == exact.starts[[0, 2]].tolist()
    assert wanted.due.tolist() == [3.0, 1.0, 2.0, 2.0]
    everything = header_offsets(dataset, headers).ranges(places, rows)
    assert all(np.array_equal(a, b) for a, b in zip(everything, exact, strict=True))


def test_an_archive_that_wids_counts_is_indexed_at_its_first_use() -> None:
    dataset = lock(str(FIXTURES / "webdataset" / "wids"), LocalStore())
    assert "offsets" not in dataset.arrays
    access = Watched(dataset.objects)
    records = open_records(dataset, access)
    records.records(np.array([7, 8]))
    assert {place for place, _, _ in access.ranges} == {1}


def test_many_threads_read_the_same_records() -> None:
    dataset = lock(str(FIXTURES / "litdata" / "frames"), LocalStore())
    records = open_records(dataset, LocalAccess(dataset.objects))
    with ThreadPoolExecutor(8) as pool:
        ids = [np.random.default_rng(seed).permutation(12) for seed in range(24)]
        for order, found in zip(ids, pool.map(records.records, ids), strict=True):
            assert [record["id"] for record in found] == order.tolist()


def test_a_window_reads_ahead_and_skips_what_is_not_asked_for() -> None:
    content = bytes(range(256)) * 4
    read: list[tuple[int, int]] = []

    def read_range(start: int, stop: int) -> bytes:
        read.append((start, stop))
        return content[start:stop]

    window = Window(read_range, len(content), "/d/x", 100)
    assert window.at(0, 10) + window.at(10, 90) == content[:100]
    assert window.at(900, 124) == content[900:]
    assert read == [(0, 100), (900, 1024)]
    with pytest.raises(
        CorruptDataError, match="/d/x: found an end at byte 1024, needed bytes 1020"
    ):
        window.at(1020, 5)


def test_tasks_at_once_keep_their_order_and_the_first_error_is_raised() -> None:
    assert in_parallel(lambda n: n * n, range(40)) == [n * n for n in range(40)]
    with pytest.raises(ZeroDivisionError):
        in_parallel(lambda n: 1 // n, [2, 1, 0])
