"""What becomes of a bad record: it is refused, or another takes its place, within a bound.

The other is the next good one along a keyed permutation of all ids: a function of the data and of
the skipped id, so that all readers, layouts and resumed runs agree without a word.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import final

import numpy as np

from ..errors import CorruptDataError, DataError
from ..order.permutation import derive_key, permute, unpermute
from .skips import BadRecord, Skips

# Keeps this permutation apart from those of the order, which are made of the same seed.
_SKIP = 7
_SHOWN = 3

Report = Callable[[BadRecord], None]
Place = Callable[[int], tuple[str, int]]


class OnBad(StrEnum):
    """What becomes of a bad record."""

    refuse = "refuse"
    """It ends the run."""
    skip = "skip"
    """Another takes its place."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """What becomes of bad records, and how many may be skipped."""

    on_bad: OnBad = OnBad.refuse
    max_bad: float = 0.001
    """How many samples may be skipped: a number of them where 1 or more, else a share of all (but
    one at least)."""
    seed: int = 0
    """Decides which samples take the place of those that are skipped."""

    def __post_init__(self) -> None:
        is_number = self.max_bad >= 1 and self.max_bad == int(self.max_bad)
        if not (is_number or 0 <= self.max_bad < 1):
            raise DataError(
                f"Policy max_bad: found {self.max_bad}, needed a whole number of samples, or a "
                "share of them from 0 to 1; set max_bad=0.001 or leave it out"
            )

    def bound(self, count: int) -> int:
        """Samples of `count` that may be skipped."""
        if self.max_bad >= 1:
            return int(self.max_bad)
        return max(1, int(self.max_bad * count)) if self.max_bad else 0


@final
class Ward:
    """The policy at work on one source of `count` samples: records what is bad, finds others."""

    def __init__(
        self,
        count: int,
        policy: Policy,
        skips: Skips,
        *,
        report: Report | None = None,
        place: Place | None = None,
    ) -> None:
        self.skips = skips
        self._count = count
        self._policy = policy
        self._key = derive_key(policy.seed, _SKIP)
        self._report = report
        self._place = place
        if len(skips) > policy.bound(count):
            raise self._too_many()

    def substitutes(self, sample: int) -> Iterator[int]:
        """All other samples, the first to take its place first, without those known as bad."""
        start = int(permute(self._count, self._key, np.array([sample]))[0])
        for step in range(1, self._count):
            place = np.array([(start + step) % self._count])
            other = int(unpermute(self._count, self._key, place)[0])
            if other not in self.skips:
                yield other
        raise DataError(
            f"sample {sample}: found no good sample to take its place among {self._count}, needed "
            "one; correct the rules, or restore the data"
        )

    def take_in(self, sample: int, error: Exception | str) -> None:
        """Records a bad sample that may be skipped.

        Raises:
            DataError, CorruptDataError: it is refused, or too many were skipped.
        """
        bad = self._described(sample, error)
        if self._policy.on_bad is OnBad.refuse:
            raise _refusal(bad, error)
        if not self.skips.add(bad):
            return
        if self._report is not None:
            self._report(bad)
        if len(self.skips) > self._policy.bound(self._count):
            raise self._too_many()

    def _described(self, sample: int, error: Exception | str) -> BadRecord:
        path = str(error.path) if isinstance(error, CorruptDataError) else ""
        url, index = self._place(sample) if self._place is not None else (path, -1)
        return BadRecord(id=sample, object=url, index=index, reason=str(error))

    def _too_many(self) -> DataError:
        found = self.skips.found
        shown = "; ".join(
            f"{one.object or 'sample'} {one.index if one.object else one.id}: {one.reason}"
            for one in found[:_SHOWN]
        )
        return DataError(
            f"Policy max_bad: found {len(found)} bad samples of {self._count}, needed "
            f"{self._policy.bound(self._count)} at most; restore the data, correct the rules or "
            f"set max_bad higher. The first of them: {shown}"
        )


def _refusal(bad: BadRecord, error: Exception | str) -> Exception:
    where = f"{bad.object} record {bad.index}" if bad.index >= 0 else f"sample {bad.id}"
    remedy = "restore it from a copy, correct the rules, or set on_bad=skip"
    if isinstance(error, CorruptDataError):
        return CorruptDataError(where, f"{error.found} in {error.path}", error.needed, remedy)
    return DataError(f"{where} (id {bad.id}): found that {error}; {remedy}")
