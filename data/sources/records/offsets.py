"""Where each sample lies in its object: read from the object's header, or known beforehand.

Owns the cache of headers. Knows no encoding of samples.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, final

import numpy as np

from ...access import Access, Ranges
from ...dataset import Dataset
from ...errors import CorruptDataError
from ...store import StoredObject
from ..kept import Kept
from ..listing import RESTORE
from ..source import Ids, Times

KEPT_BYTES = 64 << 20


class Wanted(NamedTuple):
    """Ranges that will be read, and when."""

    ranges: Ranges
    due: Times


class Offsets(Protocol):
    """Sample `rows[i]` of object `places[i]` -> a range of its bytes."""

    def ranges(self, places: Ids, rows: Ids) -> Ranges:
        """Blocks while headers come in."""
        ...

    def likely(self, places: Ids, rows: Ids, due: Times) -> Wanted:
        """What reading these would read, as far as is known now. Never blocks."""
        ...


class Headers(Protocol):
    """How the offsets of whole objects are found."""

    def where(self, place: int) -> tuple[int, int, int]:
        """The object and range that are read to find those of object `place`."""
        ...

    def load(self, places: Sequence[int]) -> list[Ids]:
        """For each object, count + 1 ascending offsets, inside of it. Blocks.

        Raises:
            CorruptDataError: a header says something else.
        """
        ...


@final
class KnownOffsets:
    """Offsets that the dataset holds: `arrays["offsets"]`, count + 1 for each object in turn."""

    def __init__(self, dataset: Dataset) -> None:
        table = dataset.arrays["offsets"]
        self._bases = np.cumsum(dataset.counts + 1) - dataset.counts - 1
        if table.dtype != np.int64 or table.shape != (int((dataset.counts + 1).sum()),):
            raise CorruptDataError(
                dataset.url,
                f"offsets of {table.dtype} and shape {table.shape}",
                f"{int((dataset.counts + 1).sum())} of int64",
                "lock the dataset again",
            )
        self._table = table

    def ranges(self, places: Ids, rows: Ids) -> Ranges:
        first = self._bases[places] + rows
        return Ranges(places, self._table[first], self._table[first + 1])

    def likely(self, places: Ids, rows: Ids, due: Times) -> Wanted:
        return Wanted(self.ranges(places, rows), due)


def header_offsets(dataset: Dataset, headers: Headers, *, kept_bytes: int = KEPT_BYTES) -> Offsets:
    """Offsets read at the first use of each object: all are kept where they fit in `kept_bytes`,
    else those of the objects used last."""
    fits = 8 * int((dataset.counts + 1).sum()) <= kept_bytes
    if fits:
        return AllOffsets(dataset, headers)
    return NewestOffsets(dataset, headers, kept_bytes=kept_bytes)


@final
class AllOffsets:
    """Offsets of all objects in one array, which fills as objects are used."""

    def __init__(self, dataset: Dataset, headers: Headers) -> None:
        self._dataset = dataset
        self._headers = headers
        self._bases = np.cumsum(dataset.counts + 1) - dataset.counts - 1
        # Pages of it that no object has filled take no memory.
        self._table = np.zeros(int((dataset.counts + 1).sum()), dtype=np.int64)
        self._is_known = np.zeros(len(dataset.counts), dtype=np.bool_)

    def ranges(self, places: Ids, rows: Ids) -> Ranges:
        missing = places[~self._is_known[places]]
        if len(missing):
            # Two threads may both read a header; what they write is the same.
            found = np.unique(missing).tolist()
            for place, offsets in zip(found, self._headers.load(found), strict=True):
                base = int(self._bases[place])
                self._table[base : base + len(offsets)] = offsets
                self._is_known[place] = True
        return self._known(places, rows)

    def likely(self, places: Ids, rows: Ids, due: Times) -> Wanted:
        is_known = self._is_known[places]
        exact = Wanted(self._known(places[is_known], rows[is_known]), due[is_known])
        if is_known.all():
            return exact
        rest = ~is_known
        return _both(
            exact, _guesses(self._dataset, self._headers, places[rest], rows[rest], due[rest])
        )

    def _known(self, places: Ids, rows: Ids) -> Ranges:
        first = self._bases[places] + rows
        return Ranges(places, self._table[first], self._table[first + 1])


@final
class NewestOffsets:
    """Offsets of the objects used last."""

    def __init__(self, dataset: Dataset, headers: Headers, *, kept_bytes: int) -> None:
        self._dataset = dataset
        self._headers = headers
        self._kept: Kept[int, Ids] = Kept(kept_bytes, lambda offsets: offsets.nbytes)

    def ranges(self, places: Ids, rows: Ids) -> Ranges:
        found = {place: self._kept.peek(place) for place in np.unique(places).tolist()}
        missing = [place for place, table in found.items() if table is None]
        for place, table in zip(missing, self._headers.load(missing), strict=True):
            self._kept.put(place, table)
            found[place] = table
        return _looked_up(places, rows, found)

    def likely(self, places: Ids, rows: Ids, due: Times) -> Wanted:
        found = {place: self._kept.peek(place) for place in np.unique(places).tolist()}
        missing = [place for place, table in found.items() if table is None]
        rest = np.isin(places, np.array(missing, dtype=np.int64))
        exact = Wanted(_looked_up(places[~rest], rows[~rest], found), due[~rest])
        if not missing:
            return exact
        return _both(
            exact, _guesses(self._dataset, self._headers, places[rest], rows[rest], due[rest])
        )


def _looked_up(places: Ids, rows: Ids, tables: Mapping[int, Ids | None]) -> Ranges:
    starts, stops = np.empty_like(rows), np.empty_like(rows)
    for place, table in tables.items():
        mine = places == place
        if table is not None:
            starts[mine] = table[rows[mine]]
            stops[mine] = table[rows[mine] + 1]
    return Ranges(places, starts, stops)


def _guesses(dataset: Dataset, headers: Headers, places: Ids, rows: Ids, due: Times) -> Wanted:
    """The headers of these objects, each at the first need of it, and the samples where they lie
    if all samples of an object are equally long."""
    order = np.lexsort((due, places))
    objects, first = np.unique(places[order], return_index=True)
    heads = Ranges.of([headers.where(place) for place in objects.tolist()])
    sizes = np.array([dataset.objects[place].raw_bytes for place in objects.tolist()], np.int64)
    sizes = sizes[np.searchsorted(objects, places)]
    shares = sizes / np.maximum(1, dataset.counts[places])
    starts = (rows * shares).astype(np.int64)
    stops = np.minimum(sizes, ((rows + 1) * shares).astype(np.int64) + 1)
    return _both(Wanted(heads, due[order][first]), Wanted(Ranges(places, starts, stops), due))


def _both(first: Wanted, second: Wanted) -> Wanted:
    columns = zip(first.ranges, second.ranges, strict=True)
    return Wanted(
        Ranges(*(np.concatenate(pair) for pair in columns)),
        np.concatenate([first.due, second.due]),
    )


def check_counted(head: StoredObject, count: int, index: str) -> None:
    """Raises CorruptDataError where an object is too short for the header of `count` samples."""
    needed = 4 * (count + 2)
    if head.raw_bytes < needed:
        raise CorruptDataError(
            head.url,
            f"{head.raw_bytes} bytes",
            f"a header of {needed} for the {count} samples of {index}",
            RESTORE,
        )


@final
class CountedHeaders:
    """Headers of a uint32 count and count + 1 uint32 offsets, as MDS and litdata have them.

    `heads[i]` is the object whose first bytes are the header of object i: most often i itself.
    """

    def __init__(self, dataset: Dataset, access: Access, heads: Ids | None = None) -> None:
        self._dataset = dataset
        self._access = access
        self._heads = np.arange(len(dataset.counts)) if heads is None else heads

    def where(self, place: int) -> tuple[int, int, int]:
        return int(self._heads[place]), 0, 4 * (int(self._dataset.counts[place]) + 2)

    def load(self, places: Sequence[int]) -> list[Ids]:
        ranges = [self.where(place) for place in places]
        for place, (head, _, _) in zip(places, ranges, strict=True):
            count = int(self._dataset.counts[place])
            check_counted(self._dataset.objects[head], count, self._dataset.url)
        bodies = self._access.read(Ranges.of(ranges)) if ranges else []
        return [self._parse(place, body) for place, body in zip(places, bodies, strict=True)]

    def _parse(self, place: int, body: memoryview) -> Ids:
        words = np.frombuffer(body, dtype="<u4").astype(np.int64)
        head, count = int(self._heads[place]), int(self._dataset.counts[place])
        size = self._dataset.objects[place].raw_bytes
        if len(words) != count + 2 or words[0] != count:
            found = words[0] if len(words) else "no"
            self._refuse(head, f"{found} samples in its header", f"{count} by the index")
        offsets = words[1:]
        least = len(words) * 4 if head == place else 0
        if offsets[0] < least or offsets[-1] > size or (np.diff(offsets) < 0).any():
            self._refuse(
                head, "offsets out of order or range", f"{count + 1} ascending in {least}..{size}"
            )
        return offsets

    def _refuse(self, place: int, found: str, needed: str) -> None:
        raise CorruptDataError(self._dataset.objects[place].url, found, needed, RESTORE)
