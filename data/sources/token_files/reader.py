"""Token ids in arrays, one an object, of one type: read by ranges of bytes, whatever the format."""

from functools import cached_property
from typing import Any, final

import numpy as np
import numpy.typing as npt

from ...access import Access, Ranges
from ...dataset import Dataset
from ...errors import CorruptDataError
from ..source import Ids, Times


@final
class TokenArrays:
    """A Tokens: object i holds counts[i] tokens of `facts["dtype"]` from byte `arrays["heads"][i]`
    on; `arrays["documents"]`, where there is one, holds the first token of each document.

    Raises:
        CorruptDataError: the dataset's arrays do not fit its objects.
    """

    def __init__(self, dataset: Dataset, access: Access) -> None:
        self._dataset = dataset
        self._access = access
        self._dtype: np.dtype[Any] = np.dtype(dataset.facts["dtype"])
        self._starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(dataset.counts)])
        self._heads = dataset.arrays["heads"]
        documents = dataset.arrays.get("documents")
        if self._heads.dtype != np.int64 or self._heads.shape != dataset.counts.shape:
            self._refuse(f"{len(self._heads)} heads", f"{len(dataset.counts)}")
        if documents is not None and not _is_sound(documents, len(self)):
            self._refuse("documents out of order", f"first tokens below {len(self)}")
        self._documents = documents

    @property
    def access(self) -> Access:
        return self._access

    def __len__(self) -> int:
        return int(self._starts[-1])

    @cached_property
    def digest(self) -> str:
        return self._dataset.digest

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._dtype

    @property
    def documents(self) -> Ids | None:
        return self._documents

    def gather(self, starts: Ids, width: int) -> npt.NDArray[Any]:
        first, is_whole = self._first(starts, width)
        if is_whole.all():
            return self._rows(first, starts, width)
        rows = np.empty((len(starts), width), dtype=self._dtype)
        rows[is_whole] = self._rows(first[is_whole], starts[is_whole], width)
        for row in np.flatnonzero(~is_whole).tolist():
            bodies = self._access.read(self._pieces(int(starts[row]), width))
            rows[row] = np.concatenate([np.frombuffer(body, self._dtype) for body in bodies])
        return rows

    def _rows(self, places: Ids, starts: Ids, width: int) -> npt.NDArray[Any]:
        """Of rows that each lie in one object."""
        found = self._access.gather(
            self._ranges(places, starts, width), width * self._dtype.itemsize
        )
        return found.view(self._dtype)

    def want(self, starts: Ids, width: int, due: Times) -> None:
        first, is_whole = self._first(starts, width)
        parts = [self._ranges(first[is_whole], starts[is_whole], width)]
        times = [due[is_whole]]
        for row in np.flatnonzero(~is_whole).tolist():
            parts.append(self._pieces(int(starts[row]), width))
            times.append(np.full(len(parts[-1].objects), due[row]))
        ranges = Ranges(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
        self._access.want(ranges, np.concatenate(times))

    def where(self, start: int, width: int) -> Ranges:
        return self._pieces(start, width)

    def _first(self, starts: Ids, width: int) -> tuple[Ids, npt.NDArray[np.bool_]]:
        """The object in which each row begins, and whether it also ends there."""
        if len(starts) and not 0 <= int(starts.min()) <= int(starts.max()) <= len(self) - width:
            raise ValueError(
                f"starts: found {starts.min()} to {starts.max()}, needed 0 to {len(self) - width}, "
                f"{width} tokens before the end; ask for those"
            )
        first = np.searchsorted(self._starts, starts, side="right") - 1
        first = np.minimum(first, max(0, len(self._dataset.counts) - 1))
        return first, starts + width <= self._starts[first + 1]

    def _ranges(self, places: Ids, starts: Ids, width: int) -> Ranges:
        begin = self._heads[places] + (starts - self._starts[places]) * self._dtype.itemsize
        return Ranges(places, begin, begin + width * self._dtype.itemsize)

    def _pieces(self, start: int, width: int) -> Ranges:
        """The ranges of one row that goes over the ends of objects."""
        found, stop = [], start + width
        place = int(np.searchsorted(self._starts, start, side="right")) - 1
        while start < stop:
            end = min(stop, int(self._starts[place + 1]))
            if end > start:
                begin = int(
                    self._heads[place] + (start - self._starts[place]) * self._dtype.itemsize
                )
                found.append((place, begin, begin + (end - start) * self._dtype.itemsize))
            start, place = max(start, end), place + 1
        return Ranges.of(found)

    def _refuse(self, found: str, needed: str) -> None:
        raise CorruptDataError(self._dataset.url, found, needed, "lock the dataset again")


def _is_sound(documents: Ids, tokens: int) -> bool:
    if not tokens:
        return len(documents) == 0
    return (
        documents.dtype == np.int64
        and documents.ndim == 1
        and len(documents) > 0
        and documents[0] == 0
        and int(documents[-1]) < tokens
        and bool((np.diff(documents) > 0).all())
    )
