"""Which samples are skipped: JSON that is part of the data's state. Decides nothing."""

import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt

from ..dataset import Dataset
from ..errors import DataError
from ..sources.source import Ids

VERSION = 1


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class BadRecord:
    """A record that cannot be used."""

    id: int
    """Among all of its source."""
    object: str
    """The object that holds it; "" where that is not known."""
    index: int
    """Its number in that object; -1 where that is not known."""
    reason: str


@final
class Skips:
    """Bad samples by id. It only grows. Safe to use from several threads.

    Every reader finds by itself what it reads, and the rest of the readers the same: which sample
    takes a skipped one's place is a function of the data alone. A list that is saved should be
    the union of all readers' (`merge`), so that a resumed run reads no bad record again.
    """

    def __init__(self, found: Iterable[BadRecord] = ()) -> None:
        self._found = {one.id: one for one in found}
        self._sorted = np.array(sorted(self._found), dtype=np.int64)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._found)

    def __contains__(self, sample: int) -> bool:
        return sample in self._found

    @property
    def found(self) -> list[BadRecord]:
        """By id, ascending."""
        with self._lock:
            return [self._found[one] for one in self._sorted.tolist()]

    def are_in(self, ids: Ids) -> npt.NDArray[np.bool_]:
        """Which of the ids are skipped."""
        return np.isin(ids, self._sorted) if len(self._sorted) else np.zeros(len(ids), np.bool_)

    def add(self, bad: BadRecord) -> bool:
        """Whether it was not there yet."""
        with self._lock:
            if bad.id in self._found:
                return False
            self._found[bad.id] = bad
            self._sorted = np.array(sorted(self._found), dtype=np.int64)
            return True

    def merge(self, states: Iterable[dict[str, Any]]) -> None:
        """Takes over what others' `state_dict` say, e.g. of all ranks, gathered."""
        for state in states:
            for one in _parse(state):
                self.add(one)

    def state_dict(self) -> dict[str, Any]:
        """Version and bad records, as JSON."""
        return {"version": VERSION, "skips": [asdict(one) for one in self.found]}

    @classmethod
    def of(cls, state: dict[str, Any]) -> "Skips":
        """What `state_dict` gave.

        Raises:
            DataError: it is of another version, or no such state.
        """
        return cls(_parse(state))


def places(dataset: Dataset, *, unit: int = 1) -> Callable[[int], tuple[str, int]]:
    """What tells the object of a sample, and its number in it.

    Args:
        unit: how many of what the dataset counts a sample takes: tokens, where samples are cut out
            of these; 1 for records.
    """
    ends = np.cumsum(dataset.counts)

    def place(sample: int) -> tuple[str, int]:
        first = sample * unit
        number = int(np.searchsorted(ends, first, side="right"))
        start = int(ends[number - 1]) if number else 0
        return dataset.objects[number].url, (first - start) // unit

    return place


def _parse(state: dict[str, Any]) -> list[BadRecord]:
    if state.get("version") != VERSION:
        raise DataError(
            f"data skips version: found {state.get('version')} in the saved state, needed "
            f"{VERSION}; use the keepstep release that wrote it, or start without its list"
        )
    try:
        return [
            BadRecord(
                id=int(one["id"]),
                object=str(one["object"]),
                index=int(one["index"]),
                reason=str(one["reason"]),
            )
            for one in state["skips"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"data skips: found entries that cannot be read ({error!r}), needed id, object, index "
            "and reason of each; restore the state"
        ) from error
