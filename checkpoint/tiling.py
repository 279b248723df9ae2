"""Whether the boxes of a tensor are the whole of it, each element in exactly one of them.

A checkpoint of a large job has hundreds of thousands of boxes: common cuts are judged in numpy, for
all tensors at once, and only what is left one tensor after the other.
"""

import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from .layout import Boxed

Ints = npt.NDArray[np.int64]
# What is compared box by box where a grid of all edges would have more cells than this a box.
_CELLS_A_BOX = 16


def check_tilings(tensors: Iterable[Sequence[Boxed]]) -> None:
    """Refuses the boxes of any tensor, as `check_tiling` those of one."""
    by_dims: dict[int, list[Sequence[Boxed]]] = {}
    for boxes in tensors:
        first = boxes[0]
        if len(boxes) > 1 and _is_even(boxes):
            by_dims.setdefault(len(first.global_shape), []).append(boxes)
        elif len(boxes) > 1 or any(first.offsets) or first.shape != first.global_shape:
            check_tiling(boxes)
    for group in by_dims.values():
        for boxes, is_cut in zip(group, _are_cut_along_one_dim(group), strict=True):
            if not is_cut:
                check_tiling(boxes)


def check_tiling(chunks: Sequence[Boxed]) -> None:
    """Refuses the boxes of one tensor (ValueError) unless each element is in exactly one."""
    first = chunks[0]
    for chunk in chunks:
        if (chunk.dtype, chunk.global_shape) != (first.dtype, first.global_shape):
            raise ValueError(f"{first.name} has two dtypes or shapes")
        if not _is_inside(chunk):
            raise ValueError(f"{first.name} has a box outside of itself")
    volume = sum(math.prod(chunk.shape) for chunk in chunks)
    if volume != math.prod(first.global_shape):
        raise ValueError(f"{first.name} has boxes that leave a gap")
    if not volume and len(chunks) > 1:
        raise ValueError(f"{first.name} is empty but has several boxes")
    if _has_overlap(chunks):
        raise ValueError(f"{first.name} has boxes that overlap")


def _is_even(boxes: Sequence[Boxed]) -> bool:
    """Whether all boxes are of one tensor with a dim or more."""
    dtype, whole = boxes[0].dtype, boxes[0].global_shape
    dims = len(whole)
    for box in boxes:
        if box.global_shape != whole or box.dtype != dtype:
            return False
        if not len(box.offsets) == len(box.shape) == dims:
            return False
    return dims > 0


def _is_inside(box: Boxed) -> bool:
    return len(box.global_shape) == len(box.offsets) == len(box.shape) and all(
        offset + size <= whole
        for offset, size, whole in zip(box.offsets, box.shape, box.global_shape, strict=True)
    )


def _are_cut_along_one_dim(group: Sequence[Sequence[Boxed]]) -> list[bool]:
    """Of each tensor whether its boxes follow one another along one dim and fill all others.

    Args:
        group: tensors of one number of dims, at least one, with two boxes or more each.
    """
    counts = np.array([len(boxes) for boxes in group])
    firsts = np.concatenate(([0], np.cumsum(counts)[:-1]))
    owner = np.repeat(np.arange(len(group)), counts)
    every = list(itertools.chain.from_iterable(group))
    try:
        offsets = _table([box.offsets for box in every])
        shapes = _table([box.shape for box in every])
        whole = _table([boxes[0].global_shape for boxes in group])
    except OverflowError:  # numbers that no tensor has
        return [False] * len(group)
    is_full = (offsets == 0) & (shapes == whole[owner])
    is_cut = ~np.logical_and.reduceat(is_full, firsts)
    dim = is_cut.argmax(axis=1)
    rows = np.arange(len(every))
    start, size = offsets[rows, dim[owner]], shapes[rows, dim[owner]]
    order = np.lexsort((size, start, owner))
    start, end = start[order], (start + size)[order]
    lasts = firsts + counts - 1
    follows = np.ones(len(every), dtype=bool)
    follows[1:] = start[1:] == end[:-1]
    follows[firsts] = start[firsts] == 0
    tensors = np.arange(len(group))
    holds = np.logical_and.reduceat(follows, firsts) & (end[lasts] == whole[tensors, dim])
    found: list[bool] = (holds & (is_cut.sum(axis=1) == 1) & (whole > 0).all(axis=1)).tolist()
    return found


def _table(rows: Sequence[Sequence[int]]) -> Ints:
    dims = len(rows[0])
    flat = itertools.chain.from_iterable(rows)
    return np.fromiter(flat, np.int64, count=dims * len(rows)).reshape(-1, dims)


def _has_overlap(chunks: Sequence[Boxed]) -> bool:
    """Whether two boxes share an element, of boxes inside of one tensor."""
    chunks = [chunk for chunk in chunks if math.prod(chunk.shape)]
    dims = range(len(chunks[0].global_shape)) if chunks else ()
    if len(chunks) < 2 or not dims:
        return len(chunks) > 1
    if max(chunks[0].global_shape) >= 2**62:  # more than numpy's integers hold
        return _share_by_sweep(chunks)
    offsets = _table([chunk.offsets for chunk in chunks])
    ends = offsets + _table([chunk.shape for chunk in chunks])
    edges = [np.unique(np.concatenate((offsets[:, dim], ends[:, dim]))) for dim in dims]
    cut = [dim for dim in dims if len(edges[dim]) > 2]
    if math.prod(len(edges[dim]) for dim in cut) > _CELLS_A_BOX * len(chunks) or not cut:
        return _share_by_sweep(chunks)
    return _share_by_grid([(edges[dim], offsets[:, dim], ends[:, dim]) for dim in cut])


def _share_by_grid(dims: Sequence[tuple[Ints, Ints, Ints]]) -> bool:
    """Counts the boxes over each cell between the edges, by marking their corners."""
    counts = np.zeros([len(edges) for edges, _, _ in dims], dtype=np.int64)
    spans = [
        (np.searchsorted(edges, starts), np.searchsorted(edges, ends))
        for edges, starts, ends in dims
    ]
    for corner in itertools.product((0, 1), repeat=len(dims)):
        place = tuple(span[side] for span, side in zip(spans, corner, strict=True))
        np.add.at(counts, place, (-1) ** sum(corner))
    for dim in range(len(dims)):
        counts = counts.cumsum(axis=dim)
    return bool(counts.max() > 1)


def _share_by_sweep(chunks: Sequence[Boxed]) -> bool:
    dims = range(len(chunks[0].global_shape))
    # Along the dim that is cut most: rows of a thousand ranks stay linear.
    sweep = max(dims, key=lambda dim: len({chunk.offsets[dim] for chunk in chunks}))
    active: list[Boxed] = []
    for chunk in sorted(chunks, key=lambda chunk: chunk.offsets[sweep]):
        start = chunk.offsets[sweep]
        active = [other for other in active if other.offsets[sweep] + other.shape[sweep] > start]
        if any(_meet(chunk, other) for other in active):
            return True
        active.append(chunk)
    return False


def _meet(one: Boxed, other: Boxed) -> bool:
    return all(
        start < other_start + other_size and other_start < start + size
        for start, size, other_start, other_size in zip(
            one.offsets, one.shape, other.offsets, other.shape, strict=True
        )
    )
