"""Consecutive samples of a source as a source of their own. Reads nothing itself."""

from collections.abc import Mapping, Sequence
from typing import final

import numpy as np
from torch import Tensor

from ..access import Access, NextUse, Ranges
from ..sources import Source, Stored, locatable, reading, spending
from ..sources.source import Ids, Times


@final
class Slice:
    """The samples [start, stop) of `source`, numbered from 0.

    Args:
        leads: whether the source is told what of it is read next; one of several slices only.
    """

    def __init__(self, source: Source, start: int, stop: int, *, leads: bool = True) -> None:
        self._source = source
        self._stored = source if isinstance(source, Stored) else None
        self._read, self._spent = reading(source), spending(source)
        self._start = start
        self._stop = stop
        self._leads = leads

    def __len__(self) -> int:
        return self._stop - self._start

    @property
    def digest(self) -> str:
        return f"{self._source.digest}[{self._start}:{self._stop}]"

    @property
    def sample_bytes(self) -> int:
        return self._stored.sample_bytes if self._stored else 1

    @property
    def accesses(self) -> Sequence[Access]:
        return self._stored.accesses if self._stored else ()

    def want(self, ids: Ids, due: Times) -> None:
        if self._stored is not None:
            self._stored.want(ids + self._start, due)

    def follow(self, next_use: NextUse) -> None:
        """Samples outside of the slice count as wanted never."""
        if self._leads and self._stored is not None:
            self._stored.follow(lambda ids: self._uses(next_use, ids))

    def where(self, sample: int) -> tuple[Access, Ranges]:
        """As the source says it.

        Raises:
            TypeError: it cannot.
        """
        return locatable(self._source).where(sample + self._start)

    def read(self, ids: Ids) -> dict[str, Tensor]:
        return self._source.read(ids + self._start)

    def read_at(self, ids: Ids, epochs: Ids) -> dict[str, Tensor]:
        return self._read(ids + self._start, epochs)

    @property
    def spent(self) -> Mapping[str, float]:
        return self._spent()

    def _uses(self, next_use: NextUse, ids: Ids) -> Ids:
        inside = (ids >= self._start) & (ids < self._stop)
        uses = np.full(len(ids), 2**62, dtype=np.int64)
        uses[inside] = next_use(ids[inside] - self._start)
        return uses
