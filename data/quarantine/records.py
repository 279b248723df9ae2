"""Records of which the bad ones are refused, or replaced by others."""

from collections.abc import Sequence
from typing import final

import numpy as np

from ..access import Access
from ..errors import CorruptDataError
from ..sources.source import Ids, Record, Records, Times
from .policy import Place, Policy, Report, Ward
from .rules import Column
from .skips import Skips


@final
class GoodRecords:
    """The records of `records`, in which those that cannot be decoded or break a rule are refused
    or replaced.

    Give it the records that are trained on and no others: a replacement may be any of them.

    Args:
        skips: those known as bad, which are not read; it grows by those found.
        report: called once for each that is found, from the thread that reads.
        place: tells object and number of a record; see `skips.places`.

    Raises:
        DataError: `skips` holds more than the policy allows.
    """

    def __init__(
        self,
        records: Records,
        rules: Sequence[Column] = (),
        *,
        policy: Policy | None = None,
        skips: Skips | None = None,
        report: Report | None = None,
        place: Place | None = None,
    ) -> None:
        self._records = records
        self._rules = tuple(rules)
        self.skips = Skips() if skips is None else skips
        self._ward = Ward(len(records), policy or Policy(), self.skips, report=report, place=place)

    def __len__(self) -> int:
        return len(self._records)

    @property
    def digest(self) -> str:
        """The records' own: a run that met a bad one may go on with another policy."""
        return self._records.digest

    @property
    def sample_bytes(self) -> int:
        return self._records.sample_bytes

    @property
    def access(self) -> Access:
        return self._records.access

    def want(self, ids: Ids, due: Times) -> None:
        known = self.skips.are_in(ids)
        self._records.want(ids[~known], due[~known])

    def records(self, ids: Ids) -> list[Record]:
        """The records, or those that took their place, in the order asked for.

        Raises:
            DataError, CorruptDataError: one is refused, or more are bad than may be.
        """
        found: list[Record | None] = [None] * len(ids)
        good = np.flatnonzero(~self.skips.are_in(ids))
        self._read(ids, good, found)
        return [
            self._other(sample) if record is None else record
            for sample, record in zip(ids.tolist(), found, strict=True)
        ]

    def _read(self, ids: Ids, places: Ids, found: list[Record | None]) -> None:
        """Puts good records where they belong, and leaves the places of bad ones empty."""
        if len(places) == 0:
            return
        try:
            records = self._records.records(ids[places])
        except CorruptDataError as error:
            if len(places) == 1:
                self._ward.take_in(int(ids[places[0]]), error)
                return
            # Which of them it is, is found by halving: bad ones are rare.
            for half in np.array_split(places, 2):
                self._read(ids, half, found)
            return
        for place, record in zip(places.tolist(), records, strict=True):
            reason = next((said for rule in self._rules if (said := rule.reason(record))), None)
            if reason is None:
                found[place] = record
            else:
                self._ward.take_in(int(ids[place]), reason)

    def _other(self, sample: int) -> Record:
        for other in self._ward.substitutes(sample):
            found: list[Record | None] = [None]
            self._read(np.array([other]), np.array([0]), found)
            if found[0] is not None:
                return found[0]
        raise AssertionError("substitutes end by raising")
