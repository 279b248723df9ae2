"""Records of any format, each made a sample by a transform: a source that a loader reads."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import final

import numpy as np
import xxhash
from torch import Tensor

from ..access import Access, NextUse
from ..sources.source import Ids, Records, Times
from .collate import Batch
from .function import Draws, Transform, apply, draw_keys, pass_numbers
from .pool import Put, Task, TransformPool

# So many are read at once: workers have something to do while the rest is decoded.
_PIECE = 32


@final
class Samples:
    """One sample a record: what `transform(record, rng)` makes of it.

    Samples are equal wherever, in whatever company and however often they are read: `rng` is a
    numpy Generator that begins anew for each (seed, epoch, record). It and the record belong to
    the transform until it returns.

    Args:
        transform: a function, run in the thread that reads; or an open pool, whose processes run
            it. It returns a dict of numbers, arrays and tensors, of one shape and type a name.
        seed: of the transforms' randomness.
        version: part of the source's digest; change it with the transform where runs must not go
            on over other samples than they began with.
    """

    def __init__(
        self,
        records: Records,
        transform: Transform | TransformPool = pass_numbers,
        *,
        seed: int = 0,
        version: str = "",
    ) -> None:
        self._records = records
        self._runner = transform if isinstance(transform, TransformPool) else _Here(transform)
        self._seed = seed
        self._version = version
        self._seconds = 0.0
        self._empty: dict[str, Tensor] | None = None

    def __len__(self) -> int:
        return len(self._records)

    @cached_property
    def digest(self) -> str:
        words = f"{self._records.digest} seed={self._seed} {self._version}"
        return xxhash.xxh3_128_hexdigest(words.encode())

    @property
    def sample_bytes(self) -> int:
        return self._records.sample_bytes

    @property
    def accesses(self) -> Sequence[Access]:
        return [self._records.access]

    @property
    def spent(self) -> Mapping[str, float]:
        """Seconds in which reading ran transforms, or waited for those that do."""
        return {"transform": self._seconds}

    def want(self, ids: Ids, due: Times) -> None:
        self._records.want(ids, due)

    def follow(self, next_use: NextUse) -> None:
        self._records.access.follow(next_use)

    def read(self, ids: Ids) -> dict[str, Tensor]:
        """The samples as epoch 0 shows them; see `read_at`."""
        return self.read_at(ids, np.zeros_like(ids))

    def read_at(self, ids: Ids, epochs: Ids) -> dict[str, Tensor]:
        """The samples, by the names that the transform gives them. Numbers are int64, float64 or
        bool of shape (len(ids),); arrays and tensors keep their type.

        Raises:
            TransformError: the transform raised.
            DataError: it made something that is no tensor, or of another shape or type than of
                the other records.
            CorruptDataError: a record is damaged, or the transform says so.
        """
        if len(ids) == 0:
            return dict(self._no_rows())
        begun, fetching = time.perf_counter(), 0.0
        keys = draw_keys(self._seed, ids, epochs)

        def tasks() -> Iterator[Task]:
            nonlocal fetching
            for first in range(0, len(ids), _PIECE):
                before = time.perf_counter()
                records = self._records.records(ids[first : first + _PIECE])
                fetching += time.perf_counter() - before
                yield from zip(keys[first : first + _PIECE], records, strict=True)

        batch = Batch(len(ids))
        self._runner.run(tasks(), batch.put)
        self._seconds += time.perf_counter() - begun - fetching
        return batch.rows

    def _no_rows(self) -> dict[str, Tensor]:
        """Names, shapes and types are those of record 0."""
        if self._empty is None:
            self._empty = {name: rows[:0] for name, rows in self.read(np.array([0])).items()}
        return self._empty


@final
class _Here:
    """Runs the transform where it is called."""

    def __init__(self, transform: Transform) -> None:
        self._transform = transform

    def run(self, tasks: Iterable[Task], put: Put) -> None:
        draws = Draws()
        for place, (key, record) in enumerate(tasks):
            put(place, key[1], apply(self._transform, record, draws, key))
