"""How objects are cut into extents, the unit of fetching and of caching."""

import bisect
from collections.abc import Sequence
from typing import final

import numpy as np

from ..store import StoredObject
from .access import Numbers, Ranges

_LEAST, _MOST = 64 * 2**10, 4 * 2**20
_EXTENTS = 1024


def extent_bytes(total_bytes: int) -> int:
    """Bytes of an extent of a dataset of `total_bytes`: a power of two, 64 KiB to 4 MiB.

    4 MiB where there are 4 GiB or more. Less data is cut finer, into a thousand extents at least,
    so that what a shuffled batch wants of it is a small part of it.
    """
    wanted = max(1, total_bytes // _EXTENTS)
    return min(_MOST, max(_LEAST, 1 << (wanted.bit_length() - 1)))


@final
class ExtentMap:
    """Extents of all objects under one numbering; a packed object is a single one."""

    def __init__(self, objects: Sequence[StoredObject], size: int) -> None:
        self.size = size
        self.raw = np.array([obj.raw_bytes for obj in objects], dtype=np.int64)
        self._packed = np.array([bool(obj.packing) for obj in objects], dtype=bool)
        self._any_packed = bool(self._packed.any())
        counts = np.where(self._packed, 1, -(-self.raw // size))
        self._firsts = np.cumsum(np.append(0, counts), dtype=np.int64)
        self._bounds: list[int] = self._firsts.tolist()

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def first(self, place: int) -> int:
        """The first extent of the object at `place`."""
        return self._bounds[place]

    def place(self, extent: int) -> int:
        """The object of an extent."""
        return bisect.bisect_right(self._bounds, extent) - 1

    def locate(self, ranges: Ranges) -> tuple[Numbers, Numbers, Numbers]:
        """First and last extent of each range, and where it begins in the first one."""
        firsts = self._firsts[ranges.objects]
        if not self._any_packed:
            first, offsets = np.divmod(ranges.starts, self.size)
            last = np.maximum(ranges.stops - 1, ranges.starts) // self.size
            return firsts + first, firsts + last, offsets
        packed = self._packed[ranges.objects]
        ends = np.maximum(ranges.stops - 1, ranges.starts)
        first = firsts + np.where(packed, 0, ranges.starts // self.size)
        last = firsts + np.where(packed, 0, ends // self.size)
        offsets = np.where(packed, ranges.starts, ranges.starts % self.size)
        return first, last, offsets

    def places(self, extents: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        """Of each extent its object's place and the unpacked bytes [start, stop) it holds."""
        objects: Numbers = np.searchsorted(self._firsts, extents, side="right") - 1
        packed = self._packed[objects]
        starts = np.where(packed, 0, (extents - self._firsts[objects]) * self.size)
        stops = np.where(packed, self.raw[objects], starts + self.size)
        return objects, starts, np.minimum(stops, self.raw[objects])
