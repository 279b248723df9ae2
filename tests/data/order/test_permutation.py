"""The permutation is one to one, can be undone, looks random, and never changes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keepstep.data.order.permutation import derive_key, permute, unpermute

BIG = 2**62


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 3000), seed=st.integers(0, 2**64 - 1))
def test_every_size_is_permuted_one_to_one(size: int, seed: int) -> None:
    there = permute(size, derive_key(seed), np.arange(size))
    assert sorted(there.tolist()) == list(range(size))
    assert (unpermute(size, derive_key(seed), there) == np.arange(size)).all()


@settings(max_examples=60, deadline=None)
@given(size=st.integers(2, BIG), seed=st.integers(0, 2**63), data=st.data())
def test_huge_sizes_are_undone_too(size: int, seed: int, data: st.DataObject) -> None:
    chosen = st.lists(st.integers(0, size - 1), min_size=1, max_size=20)
    indices = np.array(data.draw(chosen), dtype=np.int64)
    there = permute(size, derive_key(seed), indices)
    assert ((there >= 0) & (there < size)).all()
    assert (unpermute(size, derive_key(seed), there) == indices).all()


def test_a_key_an_index_equals_one_key_at_a_time() -> None:
    keys = derive_key(9, np.arange(50))
    together = permute(1000, keys, np.arange(50))
    single = [int(permute(1000, keys[i : i + 1], np.array([i]))[0]) for i in range(50)]
    assert together.tolist() == single


@pytest.mark.parametrize("size", [2, 3, 5, 8, 13, 40])
def test_pairs_are_uniform_over_keys_at_small_sizes(size: int) -> None:
    count = 20_000
    keys = derive_key(np.arange(count))
    first, second = (permute(size, keys, np.full(count, index)) for index in (0, 1))
    pairs = np.bincount(first * size + second, minlength=size * size).reshape(size, size)
    different = pairs[~np.eye(size, dtype=bool)]
    expected, freedom = count / len(different), len(different) - 1
    chi_squared = ((different - expected) ** 2 / expected).sum()
    assert np.diagonal(pairs).sum() == 0
    assert chi_squared < freedom + 5 * np.sqrt(2 * freedom) + 5


def test_seed_and_epoch_do_not_alias() -> None:
    keys = {int(derive_key(seed, epoch)[0]) for seed in range(20) for epoch in range(20)}
    assert len(keys) == 400
    assert derive_key(2**64 + 5) == derive_key(5)


def test_golden_keys() -> None:
    assert derive_key(0).tolist() == [16294208416658607535]
    assert derive_key(1, 2, 3).tolist() == [15020427595393229491]
    assert derive_key(7, np.arange(3)).tolist() == [
        13309476754707697221,
        4414019431610648415,
        5090977316425868581,
    ]


@pytest.mark.parametrize(
    ("size", "seed", "golden"),
    [
        (10, 0, [4, 5, 2, 9, 3, 0]),
        (1000, 1, [687, 691, 932, 804, 616, 854]),
        (10**12, 2, [594250383650, 207793818255, 943143595021, 134636667598, 844749792821]),
    ],
)
def test_golden_permutations(size: int, seed: int, golden: list[int]) -> None:
    assert permute(size, derive_key(seed), np.arange(len(golden))).tolist() == golden
