"""Extents hold whole blocks of token samples, cover every byte, and say what lies in them."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keepstep.data.access import Cut, ExtentMap, Ranges, extent_bytes, samples_of
from keepstep.data.dataset import Dataset
from keepstep.data.store import StoredObject

COUNTS = [1_000_001, 1, 0, 3_500_000, 777_777]


def tokens(counts: list[int] = COUNTS, heads: int = 128, packing: str = "") -> Dataset:
    """Arrays of uint16 behind headers."""
    sizes = [heads + 2 * count for count in counts]
    objects = [
        StoredObject(f"s3://b/{n}", size, "t", packing, size) for n, size in enumerate(sizes)
    ]
    return Dataset(
        format="npy",
        url="s3://b",
        objects=objects,
        counts=np.array(counts, dtype=np.int64),
        facts={"dtype": "<u2"},
        arrays={"heads": np.full(len(counts), heads, dtype=np.int64)},
    )


def extents_of(found: ExtentMap, dataset: Dataset, first: int, width: int) -> set[int]:
    """The extents of which tokens [first, first + width) are read."""
    ends, used = np.cumsum(dataset.counts), set[int]()
    for place, (start, stop) in enumerate(zip(ends - dataset.counts, ends, strict=True)):
        low, high = max(first, start), min(first + width, stop)
        if low < high:
            byte = [128 + 2 * int(one - start) for one in (low, high)]
            low_extent, high_extent, _ = found.locate(Ranges.of([(place, *byte)]))
            used.update(range(int(low_extent[0]), int(high_extent[0]) + 1))
    return used


@pytest.mark.parametrize("length", [512, 2048, 2047, 1000])
def test_samples_of_two_blocks_share_no_extent_but_at_an_objects_beginning(length: int) -> None:
    dataset = tokens()
    found = ExtentMap(dataset, Cut.of(dataset, sequence_length=length))
    block = samples_of(extent_bytes(sum(obj.size for obj in dataset.objects)), 2 * length)
    blocks = [
        extents_of(found, dataset, first, min(block * length, sum(COUNTS) - 1 - first) + 1)
        for first in range(0, sum(COUNTS) - 1, block * length)
    ]
    firsts = {found.first(place) for place in range(len(COUNTS))}
    for one, other in pairwise(blocks):
        assert one & other <= firsts
    without_tokens = {found.first(COUNTS.index(0))}
    assert set[int]().union(*blocks) == set(range(len(found))) - without_tokens


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 300_000), min_size=1, max_size=4),
    length=st.sampled_from([1, 100, 1024]),
    start=st.integers(0, 600_000),
    size=st.integers(0, 400_000),
)
def test_a_range_lies_in_the_extents_that_it_is_located_in(
    counts: list[int], length: int, start: int, size: int
) -> None:
    dataset = tokens(counts)
    found = ExtentMap(dataset, Cut.of(dataset, sequence_length=length))
    raw = dataset.objects[0].size
    start = min(start, raw - 1)
    stop = min(raw, start + size)
    first, last, offset = (int(one[0]) for one in found.locate(Ranges.of([(0, start, stop)])))
    _, starts, stops = found.places(np.arange(first, last + 1))
    assert starts[0] + offset == start
    assert stops[-1] >= stop
    assert (stops[:-1] >= starts[1:]).all()
    assert found.ranges(0)[0][0] == 0
    assert found.ranges(0)[-1][1] == raw


def test_units_of_an_extent_are_those_that_begin_in_it() -> None:
    dataset = tokens([100_000, 100_000])
    found = ExtentMap(dataset, Cut.of(dataset))
    per = 2**15
    units = found.units(np.arange(len(found)), 3)
    assert units[0].tolist() == [0, per, 2 * per, 3 * per, 100_000, 4 * per, 5 * per, 6 * per]
    assert units[2].tolist() == [
        *(per - 1, 2 * per - 1, 3 * per - 1, 99_999),
        *(4 * per - 1, 5 * per - 1, 6 * per - 1, 199_999),
    ]
    # The sample that ends with the second object's first token begins in the first one.
    assert units[3][4] == 99_999


def test_a_packed_object_is_one_extent_whatever_it_holds() -> None:
    dataset = tokens([500_000, 9], packing="zstd")
    found = ExtentMap(dataset, Cut.of(dataset))
    assert len(found) == 2
    assert found.ranges(0) == [(0, dataset.objects[0].raw_bytes)]
    assert [one.tolist() for one in found.locate(Ranges.of([(0, 900_000, 900_010)]))] == [
        [0],
        [0],
        [900_000],
    ]


def test_what_a_lock_was_made_with_is_how_its_data_is_cut() -> None:
    dataset = tokens()
    locked = Dataset(
        format="npy", url="s3://b", objects=dataset.objects, counts=dataset.counts,
        facts=dataset.facts, arrays=dataset.arrays, extent_bytes=2**17, extent_overlap=2,
        extent_digests=np.zeros((1, 16), np.uint8),
    )  # fmt: skip
    assert Cut.of(locked, sequence_length=1000, size=2**20) == Cut(2**17, 2)
    assert Cut.of(dataset, sequence_length=1024, size=2**20) == Cut(2**20, 2)
