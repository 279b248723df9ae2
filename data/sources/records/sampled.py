"""Records that each lie in one range of bytes: ids -> ranges -> bytes -> values.

Formats give where samples lie and how one is decoded; this is the reader that they share.
"""

import struct
from collections.abc import Callable
from decimal import InvalidOperation
from functools import cached_property
from typing import NoReturn, final

import numpy as np
import numpy.typing as npt

from ...access import Access, Ranges
from ...dataset import Dataset
from ...errors import CorruptDataError
from ..listing import RESTORE
from ..source import FixedColumn, Ids, Record, Times
from .offsets import Offsets

Decode = Callable[[int, memoryview], Record]
# What decoders of bytes that are not what they should be raise.
DECODE_ERRORS = (
    ValueError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    RecursionError,
    InvalidOperation,
    struct.error,
)


@final
class SampleRecords:
    """A Records, and Fixed where it is given a layout.

    `decode(place, bytes)` makes a record of the bytes of one sample of object `place`, and raises
    one of DECODE_ERRORS where they make none. Thread-safe where it is.
    """

    def __init__(
        self,
        dataset: Dataset,
        access: Access,
        *,
        offsets: Offsets,
        decode: Decode,
        layout: dict[str, FixedColumn] | None = None,
    ) -> None:
        self._dataset = dataset
        self._access = access
        self._offsets = offsets
        self._decode = decode
        self.layout = layout
        self._ends = np.cumsum(dataset.counts)

    @property
    def access(self) -> Access:
        return self._access

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @cached_property
    def digest(self) -> str:
        return self._dataset.digest

    @cached_property
    def sample_bytes(self) -> int:
        held = [
            obj for obj, n in zip(self._dataset.objects, self._dataset.counts, strict=True) if n
        ]
        return max(1, sum(obj.raw_bytes for obj in held) // max(1, len(self)))

    def records(self, ids: Ids) -> list[Record]:
        places, rows = locate(self._ends, ids)
        ranges = self._offsets.ranges(places, rows)
        bodies = self._access.read(ranges)
        found = []
        for place, row, body in zip(places.tolist(), rows.tolist(), bodies, strict=True):
            try:
                found.append(self._decode(place, body))
            except CorruptDataError:
                raise
            except DECODE_ERRORS as error:
                self._refuse(place, row, error)
        return found

    def fill(self, rows: npt.NDArray[np.uint8], ids: Ids) -> None:
        places, numbers = locate(self._ends, ids)
        ranges = self._offsets.ranges(places, numbers)
        sizes = ranges.stops - ranges.starts
        for wrong in np.flatnonzero(sizes != rows.shape[1]).tolist():
            raise CorruptDataError(
                f"{self._dataset.objects[int(places[wrong])].url}, sample {numbers[wrong]}",
                f"{sizes[wrong]} bytes",
                f"{rows.shape[1]} as all samples",
                RESTORE,
            )
        rows[:] = self._access.gather(ranges, rows.shape[1])

    def want(self, ids: Ids, due: Times) -> None:
        wanted = self._offsets.likely(*locate(self._ends, ids), due)
        self._access.want(wanted.ranges, wanted.due)

    def where(self, sample: int) -> Ranges:
        return self._offsets.ranges(*locate(self._ends, np.array([sample], dtype=np.int64)))

    def _refuse(self, place: int, row: int, error: Exception) -> NoReturn:
        raise CorruptDataError(
            f"{self._dataset.objects[place].url}, sample {row}",
            f"bytes that do not decode ({type(error).__name__}: {error})",
            f"a sample of {self._dataset.format}",
            RESTORE,
        ) from error


def locate(ends: Ids, ids: Ids) -> tuple[Ids, Ids]:
    """The place that holds each id, and its row there, where place p holds the ids before ends[p].

    Raises:
        ValueError: an id is negative, or beyond the last.
    """
    count = int(ends[-1]) if len(ends) else 0
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < count:
        raise ValueError(
            f"ids: found {ids.min()} to {ids.max()}, needed 0 to {count - 1}, the samples of the "
            "dataset; ask for those"
        )
    places = np.searchsorted(ends, ids, side="right")
    # The place before the first one is the last, of which nothing is taken off.
    return places, ids - np.where(places > 0, ends[places - 1], 0)
