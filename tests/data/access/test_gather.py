"""Rows are gathered out of any views, and out of nothing else."""

import mmap
import tempfile

import numpy as np
import pytest

from keepstep.data.access.gather import gather


def mapped(content: bytes) -> memoryview:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


@pytest.mark.parametrize("width", [1, 7, 4098, 40_000])
def test_each_row_is_the_bytes_of_its_own_view(width: int) -> None:
    chooser = np.random.default_rng(width)
    contents = [chooser.bytes(50_000 + n) for n in range(9)]
    views = [mapped(one) if n % 2 else memoryview(one)[n:] for n, one in enumerate(contents)]
    which = chooser.integers(0, 9, 300)
    offsets = chooser.integers(0, 50_000 - 8 - width, 300)
    rows = gather(views, which, offsets, width)
    assert rows.shape == (300, width)
    assert rows.flags.c_contiguous
    for row, view, start in zip(rows, which.tolist(), offsets.tolist(), strict=True):
        assert row.tobytes() == bytes(views[view][start : start + width])


@pytest.mark.parametrize("offset", [-1, 97])
def test_a_row_outside_of_its_view_is_refused(offset: int) -> None:
    views = [memoryview(bytes(100)), memoryview(bytes(1000))]
    with pytest.raises(IndexError, match="found views of 100 bytes and more"):
        gather(views, np.array([1, 0]), np.array([0, offset]), 4)
    assert gather(views, np.array([1, 0]), np.array([996, 96]), 4).sum() == 0


def test_no_rows_are_gathered_of_no_views() -> None:
    none = np.empty(0, dtype=np.int64)
    assert gather([], none, none, 5).shape == (0, 5)
