"""Which bytes of a saved box a wanted one needs, and that just these go where they belong."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from keepstep.checkpoint.boxes import holds, intersect, run_of, scatter
from keepstep.checkpoint.layout import Chunk


@st.composite
def parts(draw):
    """A shape and a part of it, never empty."""
    shape = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    spans = []
    for size in shape:
        start = draw(st.integers(0, size - 1))
        spans.append(slice(start, draw(st.integers(start + 1, size))))
    return tuple(shape), tuple(spans)


def taken(shape, part):
    """Row-major places of the part's elements."""
    places = torch.arange(math.prod(shape)).reshape(shape)
    return places[part].flatten().tolist()


@settings(max_examples=200, deadline=None)
@given(parts())
def test_a_run_is_named_exactly_where_the_elements_follow_one_another(given_part):
    shape, part = given_part
    places = taken(shape, part)
    is_run = places == list(range(places[0], places[-1] + 1))
    assert run_of(shape, part) == ((places[0], places[-1] + 1) if is_run else None)


@settings(max_examples=300, deadline=None)
@given(parts(), st.integers(1, 40), st.data())
def test_ranges_that_hold_something_are_told_and_together_fill_the_part(given_part, step, data):
    shape, part = given_part
    source = torch.arange(math.prod(shape))
    region = torch.full(shape, -1)[part]
    wanted = set(taken(shape, part))
    starts = data.draw(st.permutations(range(0, len(source), step)))
    for first in starts:
        flat = source[first : first + step]
        met = wanted & set(flat.tolist())
        assert holds(first, len(flat), shape, part) == bool(met)
        before = region.clone()
        scatter(flat, first, shape, part, region)
        assert int((region != before).sum()) == len(met)
    assert torch.equal(region, source.view(shape)[part])


def test_boxes_meet_in_a_box_or_not_at_all():
    def box(offsets, shape):
        whole = {"name": "w", "dtype": "float32", "global_shape": (9, 9)}
        return Chunk(**whole, offsets=offsets, shape=shape)

    assert intersect(box((2, 0), (4, 9)), box((4, 3), (5, 3))) == (
        (slice(2, 4), slice(3, 6)),
        (slice(0, 2), slice(0, 3)),
    )
    assert intersect(box((0, 0), (2, 9)), box((2, 0), (2, 9))) is None
