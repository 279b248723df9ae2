"""Boxes are judged alike whichever way is taken: for all tensors at once, by a grid, by pairs."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keepstep.checkpoint import tiling
from keepstep.checkpoint.layout import Chunk
from keepstep.checkpoint.tiling import check_tiling, check_tilings


def box(offsets, shape, whole, name="w", dtype="float32"):
    return Chunk(name=name, dtype=dtype, global_shape=whole, offsets=offsets, shape=shape)


def covers(boxes):
    """Element by element."""
    whole = boxes[0].global_shape
    if any(
        at + n > size
        for one in boxes
        for at, n, size in zip(one.offsets, one.shape, whole, strict=True)
    ):
        return False
    counts = dict.fromkeys(itertools.product(*map(range, whole)), 0)
    for one in boxes:
        spans = [range(at, at + n) for at, n in zip(one.offsets, one.shape, strict=True)]
        for place in itertools.product(*spans):
            counts[place] += 1
    return all(count == 1 for count in counts.values())


@st.composite
def cut_tensors(draw):
    """Boxes of a tensor that was cut in two again and again, some of them spoilt afterwards."""
    whole = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    boxes = [((0,) * len(whole), whole)]
    for _ in range(draw(st.integers(0, 6))):
        offsets, shape = boxes.pop(draw(st.integers(0, len(boxes) - 1)))
        dim = draw(st.integers(0, len(whole) - 1))
        at = draw(st.integers(0, shape[dim]))
        for start, size in ((0, at), (at, shape[dim] - at)):
            low, length = list(offsets), list(shape)
            low[dim], length[dim] = low[dim] + start, size
            boxes.append((tuple(low), tuple(length)))
    if draw(st.booleans()):
        place = draw(st.integers(0, len(boxes) - 1))
        offsets, shape = (list(one) for one in boxes[place])
        dim = draw(st.integers(0, len(whole) - 1))
        draw(st.sampled_from((offsets, shape)))[dim] = draw(st.integers(0, 5))
        boxes[place] = tuple(offsets), tuple(shape)
    return [box(*one, whole) for one in boxes]


@settings(max_examples=300, deadline=None)
@given(cut_tensors())
def test_boxes_are_taken_exactly_when_each_element_is_in_one(boxes):
    for check in (check_tiling, lambda one: check_tilings([one, [box((0,), (2,), (2,))]])):
        if covers(boxes):
            check(boxes)
        else:
            with pytest.raises(ValueError, match=r"^w has"):
                check(boxes)


@settings(max_examples=100, deadline=None)
@given(cut_tensors())
def test_a_grid_and_pairs_come_to_one_verdict(boxes):
    inside = [one for one in boxes if tiling._is_inside(one) and math.prod(one.shape)]
    if len(inside) > 1:
        by_pairs = any(tiling._meet(*pair) for pair in itertools.combinations(inside, 2))
        assert tiling._has_overlap(inside) == tiling._share_by_sweep(inside) == by_pairs


def rows(count, whole):
    return [box((at, 0), (whole[0] // count, whole[1]), whole) for at in range(0, whole[0], 2)]


def test_a_spoilt_tensor_is_named_among_many():
    tensors = [rows(4, (8, 3)) for _ in range(20)]
    check_tilings(tensors)
    tensors[13] = [box(one.offsets, one.shape, (8, 3), name="odd") for one in tensors[13]]
    tensors[13][2] = box((2, 0), (2, 3), (8, 3), name="odd")
    with pytest.raises(ValueError, match="odd has boxes that overlap"):
        check_tilings(tensors)


@pytest.mark.parametrize("far", [2**62, 2**63, 2**200])
def test_numbers_that_no_tensor_has_are_refused_and_do_not_wrap_around(far):
    with pytest.raises(ValueError, match="w has"):
        check_tilings([[box((0,), (far,), (4,)), box((far,), (far,), (4,))]])
    with pytest.raises(ValueError, match="w has"):
        check_tilings([[box((0,), (far,), (2 * far,)), box((0,), (far,), (2 * far,))]])


def test_two_kinds_of_one_name_are_refused():
    first = box((0,), (1,), (2,))
    with pytest.raises(ValueError, match="two dtypes or shapes"):
        check_tilings([[first, box((1,), (1,), (2,), dtype="int32")]])
    with pytest.raises(ValueError, match="two dtypes or shapes"):
        check_tilings([[first, box((1,), (1,), (3,))]])
