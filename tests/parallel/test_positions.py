"""Every rank knows which elements of a full tensor are its own."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.layouts import LAYOUTS, Layout, Mixed
from support.world import run_world
from torch.distributed.tensor import Partial, Replicate, Shard
from torch.distributed.tensor.placement_types import _StridedShard

from keepstep.parallel import global_positions, held_indices


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=list(LAYOUTS))
def test_positions_are_those_of_the_values_that_a_shard_holds(layout: Layout) -> None:
    def body(rank: int) -> int:
        module = Mixed()
        whole = {name: p.detach().clone().flatten() for name, p in module.named_parameters()}
        layout.apply(module)
        for name, parameter in module.named_parameters():
            held = parameter.to_local() if hasattr(parameter, "to_local") else parameter
            assert torch.equal(whole[name][global_positions(parameter)], held), name
        return len(whole)

    assert run_world(layout.size, body) == [12] * layout.size


SHARDED = st.sampled_from([Replicate(), Shard(0), Shard(1)])


@settings(max_examples=50, deadline=None)
@given(
    st.tuples(st.integers(0, 9), st.integers(0, 9)),
    st.lists(st.tuples(st.integers(1, 4), SHARDED), min_size=1, max_size=3),
)
def test_shards_cover_a_tensor_once_a_copy(
    shape: tuple[int, int], axes: list[tuple[int, Replicate | Shard]]
) -> None:
    sizes, placements = [size for size, _ in axes], [placement for _, placement in axes]
    counts = torch.zeros(shape, dtype=torch.int64)
    for at in itertools.product(*map(range, sizes)):
        rows, columns = held_indices(shape, sizes, placements, at)
        counts[rows[:, None], columns] += 1
    copies = 1
    for size, placement in axes:
        copies *= size if isinstance(placement, Replicate) else 1
    assert bool((counts == copies).all())


def test_plain_shards_of_one_dim_cut_from_left_to_right() -> None:
    found = [
        held_indices((7,), (2, 2), (Shard(0), Shard(0)), at)[0].tolist()
        for at in itertools.product(range(2), range(2))
    ]
    assert found == [[0, 1], [2, 3], [4, 5], [6]]


def test_a_strided_shard_cuts_after_those_to_its_right() -> None:
    placements = (_StridedShard(0, split_factor=2), Shard(0))
    found = [
        held_indices((7,), (2, 2), placements, at)[0].tolist()
        for at in itertools.product(range(2), range(2))
    ]
    assert found == [[0, 1], [4, 5], [2, 3], [6]]


def test_a_strided_shard_of_three_axes_is_what_chunks_of_chunks_are() -> None:
    rows, sizes = 23, (3, 2, 2)
    placements = (_StridedShard(0, split_factor=4), Shard(0), Shard(0))
    for at in itertools.product(*map(range, sizes)):
        wanted = torch.arange(rows)
        for axis in (1, 2, 0):
            pieces = wanted.chunk(sizes[axis])
            wanted = pieces[at[axis]] if at[axis] < len(pieces) else wanted[:0]
        assert torch.equal(held_indices((rows,), sizes, placements, at)[0], wanted)


def test_a_plain_tensor_counts_its_elements() -> None:
    assert global_positions(torch.zeros(2, 3)).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_partial_sums_have_no_positions() -> None:
    with pytest.raises(ValueError, match=r"placements \(Partial.*needed Shard or Replicate; redis"):
        held_indices((4,), (2,), (Partial(),), (0,))


def test_a_split_factor_that_no_axis_makes_up_is_refused() -> None:
    with pytest.raises(ValueError, match=r"found split factor 3, needed the product .*\[2\]"):
        held_indices((4,), (2, 2), (_StridedShard(0, split_factor=3), Shard(0)), (0, 0))
