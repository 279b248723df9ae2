"""The order is a bijection an epoch, its own inverse's inverse, well mixed, instant and frozen."""

import dataclasses
import time
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from keepstep.data import Order, OrderRecipe, TensorSource, fit_recipe

HUGE = OrderRecipe(num_samples=10**12, block=4096, lanes=256, window=64, seed=1)
SMALL = OrderRecipe(num_samples=1000, block=8, lanes=4, window=3, seed=42)

recipes = st.builds(
    OrderRecipe,
    num_samples=st.integers(1, 700),
    block=st.integers(1, 40),
    lanes=st.integers(1, 20),
    window=st.integers(1, 9),
    seed=st.integers(0, 2**63 - 1),
)


@settings(max_examples=80, deadline=None)
@given(recipe=recipes, first_epoch=st.integers(0, 10**6))
def test_every_epoch_shows_every_sample_once(recipe: OrderRecipe, first_epoch: int) -> None:
    count = recipe.num_samples
    positions = np.arange(3 * count, dtype=np.int64) + first_epoch * count
    epochs, ids = Order(recipe).samples(positions)
    assert (epochs == np.repeat(np.arange(3), count) + first_epoch).all()
    for one in np.split(ids, 3):
        assert sorted(one.tolist()) == list(range(count))


@settings(max_examples=80, deadline=None)
@given(recipe=recipes, epoch=st.integers(0, 10**6))
def test_the_position_of_a_sample_is_where_it_is_shown(recipe: OrderRecipe, epoch: int) -> None:
    order, count = Order(recipe), recipe.num_samples
    positions = np.arange(count, dtype=np.int64) + epoch * count
    assert (order.position_of(epoch, order.samples(positions)[1]) == positions).all()


@settings(max_examples=40, deadline=None)
@given(recipe=recipes, position=st.integers(0, 5000))
def test_a_block_is_wanted_from_its_next_use_on_and_not_before(
    recipe: OrderRecipe, position: int
) -> None:
    order, count = Order(recipe), recipe.num_samples
    ids = np.arange(count, dtype=np.int64)
    uses = order.next_use(ids, position)
    ahead = np.arange(position, (position // count + 2) * count, dtype=np.int64)
    shown = order.samples(ahead)[1]
    for sample in range(0, count, max(1, count // 7)):
        first = ahead[shown == sample][0]
        assert position <= uses[sample] <= first


def test_a_block_of_a_window_that_is_over_waits_for_the_next_epoch() -> None:
    order = Order(SMALL)
    row = 8 * 4 * 3
    done = order.samples(np.arange(row))[1]
    assert (order.next_use(done, row) >= 1000).all()
    assert (order.next_use(done, row - 1) == row - 1).all()


@settings(max_examples=60, deadline=None)
@given(recipe=recipes, start=st.integers(0, 2000), size=st.integers(1, 300))
def test_a_batch_holds_its_positions_sorted_by_lane(
    recipe: OrderRecipe, start: int, size: int
) -> None:
    order = Order(recipe)
    arranged = order.arrange(start, size)
    lanes = arranged % recipe.num_samples % recipe.lanes
    assert sorted(arranged.tolist()) == list(range(start, start + size))
    assert (np.diff(lanes) >= 0).all()
    assert (order.batch(start, size) == order.samples(arranged)[1]).all()


def test_epochs_and_seeds_differ() -> None:
    first, second = np.split(Order(SMALL).samples(np.arange(2000))[1], 2)
    other = Order(dataclasses.replace(SMALL, seed=43)).samples(np.arange(1000))[1]
    assert (first == second).mean() < 0.02
    assert (first == other).mean() < 0.02


def test_a_block_keeps_its_lane_in_every_epoch() -> None:
    order = Order(SMALL)
    in_lanes = 1000 // 8 // 4 * 4 * 8
    lanes: dict[int, set[int]] = {}
    for epoch in range(4):
        positions = np.arange(in_lanes, dtype=np.int64) + epoch * 1000
        for position, sample in zip(positions, order.samples(positions)[1], strict=True):
            lanes.setdefault(int(sample) // 8, set()).add(int(position) % 1000 % 4)
    assert all(len(seen) == 1 for seen in lanes.values())


def test_ten_to_the_twelve_samples_are_instant_and_need_no_memory() -> None:
    order = Order(HUGE)
    order.batch(0, 256)
    tracemalloc.start()
    begun = time.perf_counter()
    ids = order.batch(9 * 10**11, 256)
    seconds, peak = time.perf_counter() - begun, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 0.25
    assert peak < 1_000_000
    assert (order.position_of(0, ids) == order.arrange(9 * 10**11, 256)).all()


def test_batches_draw_from_nearly_as_many_blocks_as_independent_draws_would() -> None:
    order = Order(HUGE)
    batches = [order.batch(step * 512, 512) // HUGE.block for step in range(0, 4000, 100)]
    distinct = np.mean([len(np.unique(blocks)) for blocks in batches])
    # Independent draws from 2.4e8 blocks practically never meet: 512 of 512.
    assert distinct / 512 >= 0.99


@pytest.mark.parametrize("count", [200, 500, 4_000, 13_125, 70_000])
def test_a_small_corpus_is_mixed_by_the_fitted_recipe(count: int) -> None:
    recipe = fit_recipe(TensorSource({"x": torch.zeros(count, 1)}))
    ids = Order(recipe).samples(np.arange(count))[1]
    batches = ids[: count // 32 * 32].reshape(-1, 32)
    spread = batches.std(axis=1).mean() / np.arange(count).std()
    assert abs(np.corrcoef(ids[:-1], ids[1:])[0, 1]) < 3 / np.sqrt(count)
    assert spread > 0.93
    assert count % (recipe.block * recipe.lanes) <= count / 16


def test_a_recipe_is_fitted_to_large_and_small_sources() -> None:
    large = fit_recipe(TensorSource({"x": torch.zeros(300_000, 1)}), seed=3)
    tiny = fit_recipe(TensorSource({"x": torch.zeros(5, 1)}))
    assert (large.block, large.lanes, large.window, large.seed) == (64, 64, 8, 3)
    assert (tiny.block, tiny.lanes) == (1, 1)


@pytest.mark.parametrize(
    ("count", "sample_bytes", "sizes"),
    [
        (65_536, 4096, (64, 64, 1)),  # 268 MB: extents of 256 KiB, 16 windows an epoch
        (25_000_000, 4096, (1024, 64, 8)),  # 102 GB: extents of 4 MiB
        (10**12, 4096, (1024, 64, 8)),
        (100_000, 150_000, (28, 64, 3)),
        (1_000, 256, (1, 15, 8)),
    ],
)
def test_blocks_are_extents_of_a_store_and_a_window_a_small_part_of_it(
    count: int, sample_bytes: int, sizes: tuple[int, int, int]
) -> None:
    class Many:
        digest = "x"

        def __len__(self) -> int:
            return count

    recipe = fit_recipe(Many(), sample_bytes=sample_bytes)
    assert (recipe.block, recipe.lanes, recipe.window) == sizes
    batches = [Order(recipe).batch(step * 64, 64) // recipe.block for step in range(0, 400, 7)]
    blocks = max(1, count // recipe.block)
    independent = blocks * (1 - (1 - 1 / blocks) ** 64)
    assert np.mean([len(np.unique(one)) for one in batches]) >= 0.94 * independent


def test_the_digest_changes_with_every_field() -> None:
    changes = {"num_samples": 999, "block": 9, "lanes": 5, "window": 4, "seed": 1, "source": "a"}
    digests = {dataclasses.replace(SMALL, **{k: v}).digest() for k, v in changes.items()}
    assert len(digests | {SMALL.digest()}) == 7


def test_an_empty_source_and_another_version_are_refused() -> None:
    with pytest.raises(ValueError, match="num_samples: found 0, needed 1 or more"):
        dataclasses.replace(SMALL, num_samples=0)
    with pytest.raises(ValueError, match="algorithm_version: found 2, needed 1"):
        dataclasses.replace(SMALL, algorithm_version=2)


@pytest.mark.parametrize(
    ("start", "golden"),
    [
        (0, [352, 304, 19, 455, 166, 164, 139, 138]),
        (500, [430, 427, 457, 572, 340, 337, 68, 69]),
        (990, [470, 471, 465, 466, 854, 467, 442, 468]),
        (123456, [961, 503, 177, 942, 755, 756, 806, 42]),
    ],
)
def test_golden_batches(start: int, golden: list[int]) -> None:
    assert Order(SMALL).batch(start, 8).tolist() == golden


def test_golden_batch_of_a_huge_order_and_golden_digest() -> None:
    far = [412890532869, 911730729987, 574562387929, 24568354452]
    assert Order(HUGE).batch(9 * 10**11, 4).tolist() == far
    assert HUGE.digest() == "b982421fd4c7001bde2a636910be821d"
