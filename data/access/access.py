"""What a source asks of its objects: ranges of bytes now, and word of those wanted soon."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ..store import StoredObject

Numbers = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


class Ranges(NamedTuple):
    """Ranges [start, stop) of unpacked bytes; three int64 arrays of equal length."""

    objects: Numbers
    """Places in the access's list of objects."""
    starts: Numbers
    stops: Numbers

    @classmethod
    def of(cls, ranges: Sequence[tuple[int, int, int]]) -> "Ranges":
        """Ranges of (object, start, stop) triples."""
        table = np.array(ranges, dtype=np.int64).reshape(-1, 3)
        return cls(table[:, 0], table[:, 1], table[:, 2])


class Access(Protocol):
    """The unpacked bytes of a fixed list of objects. Safe to call from many threads."""

    @property
    def objects(self) -> Sequence[StoredObject]: ...

    def read(self, ranges: Ranges) -> list[memoryview]:
        """The bytes of each range, in order. Blocks while they come in.

        What is returned may be a view of a mapped file: it stays readable, and is not written to.
        """
        ...

    def fill(self, rows: npt.NDArray[Any], ranges: Ranges) -> None:
        """Copies range i into row i of `rows` (n, width): its bytes from the row's first on.

        `rows` is C-contiguous; no range is longer than a row of it. Blocks.
        """
        ...

    def want(self, ranges: Ranges, due: npt.NDArray[np.float64]) -> None:
        """Says that range i will be read at time due[i] (time.monotonic seconds). Never blocks."""
        ...

    def close(self) -> None:
        """Lets go of maps, threads and connections; safe twice."""
        ...
