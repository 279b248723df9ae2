"""How objects are cut into extents, the unit of fetching and of caching.

The one place that says how large a block of the order is in bytes, and how extents lie to it.
"""

import bisect
from typing import NamedTuple, Self, final

import numpy as np

from ..dataset import Dataset
from ..table import raw_bytes
from .access import Numbers, Ranges

_LEAST, _MOST = 64 * 2**10, 4 * 2**20
_BLOCKS = 1024
# Where blocks cannot be told from the lock, an extent at a block's end is another block's too:
# with this many extents to a block that is a small share of them (measured: tests/data/access).
_EXTENTS_OF_A_BLOCK = 4
_LARGEST = 8 * 2**20


def extent_bytes(total_bytes: int) -> int:
    """About the bytes of a block of the order of a dataset of `total_bytes`: a power of two, 64 KiB
    to 4 MiB.

    4 MiB where there are 4 GiB or more. Less data is cut finer, into a thousand blocks at least,
    so that what a shuffled batch wants of it is a small part of it.
    """
    wanted = max(1, total_bytes // _BLOCKS)
    return min(_MOST, max(_LEAST, 1 << (wanted.bit_length() - 1)))


def samples_of(size: int, sample_bytes: int) -> int:
    """Whole samples of a block of `size` bytes or, where they do not divide it, a little more."""
    return max(1, -(-size // sample_bytes))


class Cut(NamedTuple):
    """How all objects of a dataset are cut. What was cut differently is never mixed: names in the
    cache and locks say all of it."""

    size: int
    """Bytes from one extent's start to the next one's."""
    overlap: int = 0
    """Bytes that each extent holds beyond the next one's start: what a sample reads beyond its
    own, which is the first token of the next one."""

    @classmethod
    def of(cls, dataset: Dataset, *, sequence_length: int = 0, size: int = 0) -> Self:
        """As the lock's digests say, where it has some; else so that blocks of samples of
        `sequence_length` tokens are whole extents. 0: not known, which fits powers of two.

        Args:
            size: about the bytes of an extent; 0 chooses it by the dataset's own.
        """
        if dataset.extent_digests is not None:
            return cls(dataset.extent_bytes, dataset.extent_overlap)
        item = dataset.token_bytes
        block = size or extent_bytes(int(raw_bytes(dataset.objects).sum()))
        if not item:
            return cls(size or max(_LEAST, block // _EXTENTS_OF_A_BLOCK))
        sample = max(1, sequence_length) * item
        whole = samples_of(block, sample) * sample
        return cls(whole if sample <= block and whole <= _LARGEST else block // item * item, item)


@final
class ExtentMap:
    """Extents of all objects under one numbering; a packed object is a single one.

    Bounds between extents of tokens lie at multiples of the cut's size in the row of all tokens,
    whatever headers and lengths objects have; those of other objects at multiples in each object.
    """

    def __init__(self, dataset: Dataset, cut: Cut) -> None:
        self.cut = cut
        self.raw = raw_bytes(dataset.objects)
        self._units = np.cumsum(np.append(0, dataset.counts), dtype=np.int64)
        self._item = dataset.token_bytes
        self._heads = np.zeros_like(self.raw)
        self._leads = np.full_like(self.raw, cut.size)
        if self._item:
            self._heads = dataset.arrays["heads"].astype(np.int64)
            self._leads = self._heads + cut.size - self._units[:-1] * self._item % cut.size
        self._packed = np.array([bool(obj.packing) for obj in dataset.objects], dtype=bool)
        self._any_packed = bool(self._packed.any())
        inside = self._inside(np.arange(len(self.raw)), np.maximum(self.raw - 1, 0))
        counts = np.where(self._packed, 1, np.where(self.raw > 0, 1 + inside, 0))
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

    def lead(self, place: int) -> int:
        """Bytes of the object at `place` before its second extent: a header and the rest of a
        block."""
        return int(self._leads[place])

    def locate(self, ranges: Ranges) -> tuple[Numbers, Numbers, Numbers]:
        """First and last extent of each range, and where it begins in the first one."""
        objects, starts = ranges.objects, ranges.starts
        ends = np.maximum(ranges.stops - 1 - self.cut.overlap, starts)
        first, last = self._inside(objects, starts), self._inside(objects, ends)
        firsts = self._firsts[objects]
        return firsts + first, firsts + last, starts - self._begins(objects, first)

    def places(self, extents: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        """Of each extent its object's place and the unpacked bytes [start, stop) it holds."""
        objects: Numbers = np.searchsorted(self._firsts, extents, side="right") - 1
        number = extents - self._firsts[objects]
        stops = self._begins(objects, number + 1) + self.cut.overlap
        stops = np.where(self._packed[objects], self.raw[objects], stops)
        return objects, self._begins(objects, number), np.minimum(stops, self.raw[objects])

    def ranges(self, place: int) -> list[tuple[int, int]]:
        """The stored bytes [start, stop) of each extent of an object, of a packed one all."""
        extents = np.arange(self._bounds[place], self._bounds[place + 1])
        _, starts, stops = self.places(extents)
        return list(zip(starts.tolist(), stops.tolist(), strict=True))

    def units(self, extents: Numbers, probes: int) -> Numbers:
        """(probes + 1, n): units from each extent's first to its last, evenly; of an object's first
        extent also the one before it, as that may end with this one's first token.

        Exact for tokens; for records as if all of an object were equally long.
        """
        objects, starts, _ = self.places(extents)
        stops = self._begins(objects, extents - self._firsts[objects] + 1)
        stops = np.where(self._packed[objects], self.raw[objects], stops)
        shares = np.linspace(starts, np.maximum(stops - 1, starts), probes).astype(np.int64)
        firsts, counts = self._units[objects], self._units[objects + 1] - self._units[objects]
        if self._item:
            within = np.maximum(shares - self._heads[objects], 0) // self._item
        else:
            within = shares * counts // np.maximum(1, self.raw[objects])
        inside = firsts + np.clip(within, 0, np.maximum(counts - 1, 0))
        is_first = (starts == 0) & bool(self.cut.overlap)
        return np.vstack([inside, np.where(is_first, np.maximum(firsts - 1, 0), inside[0])])

    def _inside(self, objects: Numbers, offsets: Numbers) -> Numbers:
        """The number, in its object, of the extent that holds a byte before its overlap."""
        found: Numbers = np.maximum((offsets - self._leads[objects]) // self.cut.size + 1, 0)
        return np.where(self._packed[objects], 0, found) if self._any_packed else found

    def _begins(self, objects: Numbers, numbers: Numbers) -> Numbers:
        """The first byte of an extent, by its number in its object."""
        begins = self._leads[objects] + (numbers - 1) * self.cut.size
        found: Numbers = np.where(numbers > 0, begins, 0)
        return found
