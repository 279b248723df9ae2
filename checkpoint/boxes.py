"""What of a saved box a wanted box needs: which slices, which of its bytes; and putting there what
some of these bytes hold. Knows nothing of files."""

import math
from collections.abc import Sequence

import torch

from .layout import Boxed

Slices = tuple[slice, ...]


def intersect(wanted: Boxed, saved: Boxed) -> tuple[Slices, Slices] | None:
    """Where the common box lies in each of the two; None if they have no element in common."""
    into, source = [], []
    for start, length, saved_start, saved_length in zip(
        wanted.offsets, wanted.shape, saved.offsets, saved.shape, strict=True
    ):
        low = max(start, saved_start)
        high = min(start + length, saved_start + saved_length)
        if low >= high:
            return None
        into.append(slice(low - start, high - start))
        source.append(slice(low - saved_start, high - saved_start))
    return tuple(into), tuple(source)


def run_of(shape: Sequence[int], part: Slices) -> tuple[int, int] | None:
    """The elements of a row-major box, first and last (exclusive), that a part of it is; None
    where it lies in several runs."""
    first, stride, is_open = 0, 1, True
    for size, one in zip(reversed(shape), reversed(part), strict=True):
        length = one.stop - one.start
        # Left of the first dim that is not taken whole, one index of each is all there may be.
        if not is_open and length > 1:
            return None
        is_open = is_open and length == size
        first += one.start * stride
        stride *= size
    return first, first + math.prod(one.stop - one.start for one in part)


def holds(first: int, count: int, shape: Sequence[int], part: Slices) -> bool:
    """Whether any of `count` elements from `first` on of a row-major box is in a part of it."""
    if not shape:
        return True
    row, last = math.prod(shape[1:]), first + count
    low, high = max(first // row, part[0].start), min(-(-last // row), part[0].stop)
    if low >= high:
        return False
    # Of three rows the middle one is whole; of fewer, each may begin or end somewhere.
    return high - low > 2 or any(
        holds(start, stop - start, shape[1:], part[1:])
        for index in range(low, high)
        for start in [max(first - index * row, 0)]
        for stop in [min(last - index * row, row)]
    )


def scatter(
    flat: torch.Tensor, first: int, shape: Sequence[int], part: Slices, region: torch.Tensor
) -> None:
    """Copies elements of a row-major box, those from `first` on, to where they are in a part of it.

    Args:
        flat: some of the box's elements, in a row.
        region: the part, of any strides; what `flat` does not hold of it stays.
    """
    if not shape:
        region.copy_(flat[0])
        return
    row, rows = math.prod(shape[1:]), part[0]
    index = first // row
    if cut := first % row:  # the rest of a row that begins before
        _scatter_row(flat[: row - cut], cut, shape, part, region, index)
        flat, index = flat[row - cut :], index + 1
    whole = len(flat) // row
    low, high = max(index, rows.start), min(index + whole, rows.stop)
    if low < high:
        block = flat[(low - index) * row : (high - index) * row].view(high - low, *shape[1:])
        region[low - rows.start : high - rows.start].copy_(block[(slice(None), *part[1:])])
    if len(rest := flat[whole * row :]):
        _scatter_row(rest, 0, shape, part, region, index + whole)


def _scatter_row(
    flat: torch.Tensor,
    first: int,
    shape: Sequence[int],
    part: Slices,
    region: torch.Tensor,
    index: int,
) -> None:
    if part[0].start <= index < part[0].stop:
        scatter(flat, first, shape[1:], part[1:], region[index - part[0].start])
