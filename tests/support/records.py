"""Records in memory, for tests of what is made of records."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from keepstep.data.access import LocalAccess
from keepstep.data.errors import CorruptDataError
from keepstep.data.sources import Record

Ids = npt.NDArray[np.int64]


class MemoryRecords:
    """`count` records that `make(id)` makes; those in `damaged` cannot be decoded."""

    digest, sample_bytes = "memory", 8

    def __init__(
        self, count: int, make: Callable[[int], Record], damaged: tuple[int, ...] = ()
    ) -> None:
        self._count = count
        self._make = make
        self.damaged = damaged
        self.access = LocalAccess([])
        self.wanted: list[int] = []
        self.seen: list[int] = []

    def __len__(self) -> int:
        return self._count

    def records(self, ids: Ids) -> list[Record]:
        found = []
        for number in ids.tolist():
            self.seen.append(number)
            if number in self.damaged:
                path = Path(f"object-{number // 10}")
                raise CorruptDataError(path, "bytes that do not decode", "a record", "restore it")
            found.append(self._make(number))
        return found

    def want(self, ids: Ids, due: npt.NDArray[np.float64]) -> None:
        self.wanted += ids.tolist()
