"""Rows of equal length out of many mapped views, in one step of numpy. Maps and fetches nothing."""

from collections.abc import Sequence
from typing import final

import numpy as np

from .access import Bytes, Numbers

# An array over all addresses has as many numbers as these times a row: it must fit 63 bits.
_WIDEST = 2**15


def gather(views: Sequence[memoryview], which: Numbers, offsets: Numbers, width: int) -> Bytes:
    """(n, width): row i is the `width` bytes of views[which[i]] from offsets[i] on, in new memory.

    A row costs the time of its copy, as in a gather from a single array, whatever the number of
    views: they are looked at as one array that begins with the first of them in memory, of which
    only what lies in a view is read.

    Raises:
        IndexError: a row would lie outside of its view.
    """
    if not len(which):
        return np.empty((0, width), dtype=np.uint8)
    # These hold the views' memory while it is read.
    arrays = [np.frombuffer(view, dtype=np.uint8) for view in views]
    sizes = np.array([len(array) for array in arrays], dtype=np.int64)
    if (offsets < 0).any() or (offsets + width > sizes[which]).any():
        raise IndexError(
            f"rows of {width} bytes at {offsets.min()} to {offsets.max()}: found views of "
            f"{sizes.min()} bytes and more, needed rows inside of them; ask for those"
        )
    if width > _WIDEST:
        return np.stack(
            [
                arrays[view][at : at + width]
                for view, at in zip(which.tolist(), offsets.tolist(), strict=True)
            ]
        )
    starts = np.array([array.ctypes.data for array in arrays], dtype=np.int64)
    least = int(starts.min())
    rows = int((starts + sizes).max()) - least - width + 1
    found: Bytes = np.asarray(_Memory(least, rows, width))[starts[which] - least + offsets]
    return found


@final
class _Memory:
    """Bytes from an address on as overlapping rows, one from each byte on, read-only; numpy takes
    it by its array interface."""

    def __init__(self, address: int, rows: int, width: int) -> None:
        self.__array_interface__ = {
            "version": 3,
            "data": (address, True),
            "shape": (rows, width),
            "strides": (1, 1),
            "typestr": "|u1",
        }
