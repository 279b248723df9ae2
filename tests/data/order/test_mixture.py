"""A mixture shows each source's samples once an epoch, in exact shares, whatever the weights do."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keepstep.data import Mixture, Order, OrderRecipe, mix

BOOKS = OrderRecipe(num_samples=90, block=4, lanes=3, window=2, seed=1)
CODE = OrderRecipe(num_samples=40, block=2, lanes=2, window=2, seed=2)
TALKS = OrderRecipe(num_samples=7, block=1, lanes=1, window=1, seed=3)
SOURCES = {"books": BOOKS, "code": CODE, "talks": TALKS}
ANNEALED = mix(SOURCES, [(0, (0.7, 0.2, 0.1)), (333, (0, 1, 1)), (1000, (5, 1, 0))], seed=9)

weight = st.integers(0, 9)
schedules = st.lists(
    st.tuples(st.integers(1, 900), st.tuples(weight, weight, weight).filter(any)), max_size=4
).flatmap(
    lambda later: (
        st.tuples(weight, weight, weight)
        .filter(any)
        .map(lambda first: [(0, first), *sorted(dict(later).items())])
    )
)


@settings(max_examples=60, deadline=None)
@given(schedule=schedules, seed=st.integers(0, 2**32))
def test_every_draw_of_every_source_comes_once_and_shares_are_exact(
    schedule: list[tuple[int, tuple[int, ...]]], seed: int
) -> None:
    mixture = Mixture(mix(SOURCES, schedule, seed=seed))
    positions = np.arange(1500, dtype=np.int64)
    sources, draws = mixture.draws(positions)
    stops = [*(start for start, _ in schedule[1:]), 1500]
    exact = np.zeros(3)
    for (start, weights), stop in zip(schedule, stops, strict=True):
        block = mixture.recipe.block
        for end in {stop, start + (stop - start) // block * block} - {1500}:
            seen = np.bincount(sources[:end], minlength=3)
            wanted = exact + np.array(weights) / sum(weights) * (end - start)
            assert (np.abs(seen - wanted) <= len(schedule)).all()
        exact += np.array(weights) / sum(weights) * (stop - start)
    for number in range(3):
        own = np.sort(draws[sources == number])
        whole = own[: max(0, len(own) - mixture.recipe.block)]
        assert (whole == np.arange(len(whole))).all()
        assert len(set(own.tolist())) == len(own)


def test_changing_world_sizes_and_batches_give_each_position_once_in_the_one_order() -> None:
    mixture, chooser = Mixture(ANNEALED), np.random.default_rng(4)
    position, seen = 0, []
    while position < 1400:
        size, world = int(chooser.integers(1, 65)), int(chooser.integers(1, 9))
        arranged = mixture.arrange(position, size)
        bounds = [size * rank // world for rank in range(world + 1)]
        parts = [arranged[a:b] for a, b in pairwise(bounds)]
        seen.append(np.sort(np.concatenate(parts)))
        position += size
    assert (np.concatenate(seen) == np.arange(position)).all()


def test_ids_are_those_of_the_sources_end_to_end_in_each_ones_own_order() -> None:
    mixture = Mixture(ANNEALED)
    positions = np.arange(700, dtype=np.int64)
    sources, draws = mixture.draws(positions)
    _, ids = mixture.samples(positions)
    here = sources == 1
    assert (ids[here] == Order(CODE).samples(draws[here])[1] + 90).all()
    assert ids.max() < 137


def test_a_source_is_wanted_no_later_than_it_is_drawn() -> None:
    mixture = Mixture(ANNEALED)
    position = 100
    ahead = np.arange(position, 3000, dtype=np.int64)
    _, ids = mixture.samples(ahead)
    unique, first = np.unique(ids, return_index=True)
    uses = mixture.next_use(unique, position)
    # Mixing blocks shuffle positions, so that it is early by a block at most, and never late.
    assert (uses <= ahead[first] + mixture.recipe.block).all()
    assert (uses >= position).all()
    assert (mixture.next_use(np.array([136]), 2000) >= 2**61).all()


def test_ten_to_the_twelve_samples_are_instant() -> None:
    huge = OrderRecipe(num_samples=10**12, block=4096, lanes=256, window=64, seed=1)
    mixture = Mixture(mix({"a": huge, "b": BOOKS}, [(0, (0.999, 0.001)), (10**11, (1, 1))]))
    ids = mixture.batch(9 * 10**11, 256)
    assert len(np.unique(ids[ids < 10**12])) == (ids < 10**12).sum()


def test_golden_mixture() -> None:
    mixture = Mixture(ANNEALED)
    assert mixture.batch(0, 8).tolist() == GOLDEN[0]
    assert mixture.batch(330, 8).tolist() == GOLDEN[1]
    assert ANNEALED.digest() == GOLDEN_DIGEST


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([(5, (1, 1, 1))], "found positions \\[5\\], needed 0"),
        ([(0, (1, 1))], "found \\[1, 1\\], needed 3 numbers"),
        ([(0, (0, 0, 0))], "that are not all 0"),
        ([(0, (1, 1, 0.0000001))], "needed a sum of 1000000 at most"),
    ],
)
def test_weights_that_cannot_be_kept_are_refused(
    weights: list[tuple[int, tuple[float, ...]]], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        mix(SOURCES, weights)


GOLDEN = [[64, 132, 11, 110, 44, 47, 45, 62], [127, 126, 136, 133, 113, 85, 129, 128]]
GOLDEN_DIGEST = "7451779510f4aca5ef0a63221e93885b"
