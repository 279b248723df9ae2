"""Where each sample lies in its object: read from the object's header, or known beforehand.

Owns the cache of headers. Knows no encoding of samples.
"""

from collections.abc import Sequence
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


@final
class HeaderOffsets:
    """Offsets read at the first use of each object; the newest of them are kept."""

    def __init__(self, dataset: Dataset, headers: Headers, *, kept_bytes: int = KEPT_BYTES) -> None:
        self._dataset = dataset
        self._headers = headers
        self._kept: Kept[int, Ids] = Kept(kept_bytes, lambda offsets: offsets.nbytes)

    def ranges(self, places: Ids, rows: Ids) -> Ranges:
        tables = self._tables(np.unique(places).tolist())
        pairs = [
            tables[place][row : row + 2]
            for place, row in zip(places.tolist(), rows.tolist(), strict=True)
        ]
        found = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        return Ranges(places, found[:, 0], found[:, 1])

    def likely(self, places: Ids, rows: Ids, due: Times) -> Wanted:
        """Headers first, and samples whose header is not here yet where they lie if all samples
        of the object are equally long."""
        ranges: list[tuple[int, int, int]] = []
        times: list[float] = []
        asked: set[int] = set()
        triples = zip(places.tolist(), rows.tolist(), due.tolist(), strict=True)
        for place, row, time in triples:
            table = self._kept.peek(place)
            if table is not None:
                span = (int(table[row]), int(table[row + 1]))
            else:
                if place not in asked:
                    asked.add(place)
                    ranges.append(self._headers.where(place))
                    times.append(time)
                span = self._guess(place, row)
            ranges.append((place, *span))
            times.append(time)
        return Wanted(Ranges.of(ranges), np.array(times, dtype=np.float64))

    def _tables(self, places: list[int]) -> dict[int, Ids]:
        found = {place: self._kept.peek(place) for place in places}
        missing = [place for place, table in found.items() if table is None]
        for place, table in zip(missing, self._headers.load(missing), strict=True):
            self._kept.put(place, table)
            found[place] = table
        return {place: table for place, table in found.items() if table is not None}

    def _guess(self, place: int, row: int) -> tuple[int, int]:
        size = self._dataset.objects[place].raw_bytes
        share = size / max(1, int(self._dataset.counts[place]))
        return int(row * share), min(size, int((row + 1) * share) + 1)


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
