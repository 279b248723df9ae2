"""Consecutive samples of a source as a source of their own. Reads nothing itself."""

from collections.abc import Sequence
from typing import final

import numpy as np
from torch import Tensor

from ..access import Access, NextUse
from ..sources import Source, Stored
from ..sources.source import Ids, Times


@final
class Slice:
    """The samples [start, stop) of `source`, numbered from 0.

    Args:
        leads: whether the source is told what of it is read next; one of several slices only.
    """

    def __init__(self, source: Source, start: int, stop: int, *, leads: bool = True) -> None:
        self._source = source
        self._start = start
        self._stop = stop
        self._leads = leads and isinstance(source, Stored)

    def __len__(self) -> int:
        return self._stop - self._start

    @property
    def digest(self) -> str:
        return f"{self._source.digest}[{self._start}:{self._stop}]"

    @property
    def sample_bytes(self) -> int:
        return self._source.sample_bytes if isinstance(self._source, Stored) else 1

    @property
    def accesses(self) -> Sequence[Access]:
        return self._source.accesses if isinstance(self._source, Stored) else ()

    def want(self, ids: Ids, due: Times) -> None:
        if isinstance(self._source, Stored):
            self._source.want(ids + self._start, due)

    def follow(self, next_use: NextUse) -> None:
        """Samples outside of the slice count as wanted never."""
        if self._leads and isinstance(self._source, Stored):
            self._source.follow(lambda ids: self._uses(next_use, ids))

    def read(self, ids: Ids) -> dict[str, Tensor]:
        return self._source.read(ids + self._start)

    def _uses(self, next_use: NextUse, ids: Ids) -> Ids:
        inside = (ids >= self._start) & (ids < self._stop)
        uses = np.full(len(ids), 2**62, dtype=np.int64)
        uses[inside] = next_use(ids[inside] - self._start)
        return uses
