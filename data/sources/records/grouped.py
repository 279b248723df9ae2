"""Records that are decoded many at a time: row groups, record batches, compressed frames.

Formats give where groups lie and how one is decoded; this reader keeps the groups used last.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Protocol, final

import numpy as np

from ...access import Access, Ranges
from ...dataset import Dataset
from ...errors import CorruptDataError
from ..kept import Kept
from ..listing import RESTORE
from ..source import Ids, Record, Times
from .sampled import DECODE_ERRORS, locate

KEPT_BYTES = 256 << 20
_ARRAYS = ("group_places", "group_rows", "group_starts", "group_stops")


class Rows(Protocol):
    """A decoded group."""

    nbytes: int

    def __len__(self) -> int: ...

    def record(self, row: int) -> Record: ...


@final
class GroupRecords:
    """A Records over the dataset's groups, of which `arrays` hold the object, the number of rows
    and the range of bytes. `decode(group)` reads and decodes one, in any thread."""

    def __init__(
        self,
        dataset: Dataset,
        access: Access,
        decode: Callable[[int], Rows],
        *,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        check_groups(dataset)
        self._dataset = dataset
        self._access = access
        self._decode = decode
        self._ends = np.cumsum(dataset.arrays["group_rows"])
        self._kept: Kept[int, Rows] = Kept(kept_bytes, lambda rows: rows.nbytes)

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
        arrays = self._dataset.arrays
        total = int((arrays["group_stops"] - arrays["group_starts"]).sum())
        return max(1, total // max(1, len(self)))

    def records(self, ids: Ids) -> list[Record]:
        groups, rows = locate(self._ends, ids)
        found: list[Record] = [{}] * len(ids)
        # One group after the other, so that a batch over many holds no more than the budget.
        for group in np.unique(groups).tolist():
            decoded = self._kept.get(group, lambda group=group: self._checked(group))  # type: ignore[misc]
            for place in np.flatnonzero(groups == group).tolist():
                found[place] = self._record(decoded, group, int(rows[place]))
        return found

    def want(self, ids: Ids, due: Times) -> None:
        groups, _ = locate(self._ends, ids)
        # A group is read once, at the first of its samples.
        order = np.lexsort((due, groups))
        groups, first = np.unique(groups[order], return_index=True)
        missing = np.array([self._kept.peek(group) is None for group in groups.tolist()], np.bool_)
        arrays = self._dataset.arrays
        names = ("group_places", "group_starts", "group_stops")
        ranges = Ranges(*(arrays[name][groups[missing]] for name in names))
        self._access.want(ranges, due[order][first[missing]])

    def where(self, sample: int) -> Ranges:
        groups, _ = locate(self._ends, np.array([sample], dtype=np.int64))
        names = ("group_places", "group_starts", "group_stops")
        return Ranges(*(self._dataset.arrays[name][groups] for name in names))

    def _record(self, decoded: Rows, group: int, row: int) -> Record:
        try:
            return decoded.record(row)
        except DECODE_ERRORS as error:
            place = int(self._dataset.arrays["group_places"][group])
            raise CorruptDataError(
                f"{self._dataset.objects[place].url}, group {group}, row {row}",
                f"bytes that do not decode ({type(error).__name__}: {error})",
                f"a row of {self._dataset.format}",
                RESTORE,
            ) from error

    def _checked(self, group: int) -> Rows:
        rows = self._decode(group)
        needed = int(self._dataset.arrays["group_rows"][group])
        if len(rows) != needed:
            place = int(self._dataset.arrays["group_places"][group])
            raise CorruptDataError(
                self._dataset.objects[place].url, f"{len(rows)} rows in a group", f"{needed} rows"
            )
        return rows


def group_arrays(groups: list[tuple[int, int, int, int]]) -> dict[str, Ids]:
    """The dataset's arrays for groups of (object, rows, start, stop), in order."""
    table = np.array(groups, dtype=np.int64).reshape(-1, 4)
    return {name: table[:, column].copy() for column, name in enumerate(_ARRAYS)}


def check_groups(dataset: Dataset) -> None:
    """Raises CorruptDataError where the groups' arrays do not fit the dataset's objects."""
    places, rows, starts, stops = (dataset.arrays[name] for name in _ARRAYS)
    is_wrong = any(
        array.dtype != np.int64 or array.shape != rows.shape for array in (places, starts, stops)
    )
    count = len(dataset.counts)
    is_wrong = is_wrong or (len(rows) > 0 and not 0 <= places.min() <= places.max() < count)
    if is_wrong or not np.array_equal(
        np.bincount(places, weights=rows, minlength=count).astype(np.int64), dataset.counts
    ):
        raise CorruptDataError(
            dataset.url,
            "groups that do not fit its objects",
            "rows that add up to the counts",
            "lock the dataset again",
        )
