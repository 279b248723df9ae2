"""A source of which the bad samples are refused, or replaced by others."""

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..access import Access, NextUse, Ranges
from ..errors import CorruptDataError
from ..sources.source import Ids, Source, Stored, Times, locatable, reading, spending
from .policy import Place, Policy, Report, Ward
from .rules import Column
from .skips import Skips


@final
class GoodSamples:
    """The samples of `source`, in which those that cannot be read or break a rule are refused or
    replaced. Rules are checked on whole batches at a time.

    Give it what is trained on and no more, e.g. a slice without the held-out part: a replacement
    may be any of its samples. Whether one is good must not depend on the epoch.

    Args and Raises: see `GoodRecords`.
    """

    def __init__(
        self,
        source: Source,
        rules: Sequence[Column] = (),
        *,
        policy: Policy | None = None,
        skips: Skips | None = None,
        report: Report | None = None,
        place: Place | None = None,
    ) -> None:
        self._source = source
        self._stored = source if isinstance(source, Stored) else None
        self._read, self._spent = reading(source), spending(source)
        self._rules = tuple(rules)
        self.skips = Skips() if skips is None else skips
        self._ward = Ward(len(source), policy or Policy(), self.skips, report=report, place=place)

    def __len__(self) -> int:
        return len(self._source)

    @property
    def digest(self) -> str:
        """The source's own: a run that met a bad sample may go on with another policy."""
        return self._source.digest

    @property
    def sample_bytes(self) -> int:
        return self._stored.sample_bytes if self._stored else 1

    def where(self, sample: int) -> tuple[Access, Ranges]:
        """Where the sample lies; that of a bad one, not of what takes its place."""
        return locatable(self._source).where(sample)

    @property
    def accesses(self) -> Sequence[Access]:
        return self._stored.accesses if self._stored else ()

    @property
    def spent(self) -> Mapping[str, float]:
        return self._spent()

    def want(self, ids: Ids, due: Times) -> None:
        if self._stored is not None:
            known = self.skips.are_in(ids)
            self._stored.want(ids[~known], due[~known])

    def follow(self, next_use: NextUse) -> None:
        if self._stored is not None:
            self._stored.follow(next_use)

    def read(self, ids: Ids) -> dict[str, Tensor]:
        """As `read_at`, of epoch 0."""
        return self.read_at(ids, np.zeros_like(ids))

    def read_at(self, ids: Ids, epochs: Ids) -> dict[str, Tensor]:
        """The samples, or those that took their place, in the order asked for.

        Raises:
            DataError, CorruptDataError: one is refused, or more are bad than may be.
        """
        ids, tried = ids.copy(), {}
        bad = np.flatnonzero(self.skips.are_in(ids))
        for place in bad.tolist():
            tried[place] = self._ward.substitutes(int(ids[place]))
            ids[place] = next(tried[place])
        while True:
            rows = self._rows(ids, epochs)
            if not isinstance(rows, list):
                return rows
            for place in rows:
                # The chain is the first sample's own, whoever stands there now.
                tried.setdefault(place, self._ward.substitutes(int(ids[place])))
                ids[place] = next(tried[place])

    def _rows(self, ids: Ids, epochs: Ids) -> dict[str, Tensor] | list[int]:
        """The rows, or the places of bad samples, which are recorded."""
        try:
            rows = self._read(ids, epochs)
        except CorruptDataError:
            bad = self._damaged(ids, epochs, np.arange(len(ids)))
            if not bad:  # no sample is at fault by itself
                raise
            return bad
        tables = {
            rule.name: table
            for rule in self._rules
            if (table := _table(rows.get(rule.name))) is not None
        }
        broken = [rule for rule in self._rules if not _holds(rule, tables)]
        if not broken:
            return rows
        bad = []
        for place, sample in enumerate(ids.tolist()):
            values = {name: table[place] for name, table in tables.items()}
            reason = next((said for rule in broken if (said := rule.reason(values))), None)
            if reason is not None:
                self._ward.take_in(sample, reason)
                bad.append(place)
        return bad if bad else rows

    def _damaged(self, ids: Ids, epochs: Ids, places: Ids) -> list[int]:
        """The places of samples that cannot be read, found by halving."""
        try:
            self._read(ids[places], epochs[places])
        except CorruptDataError as error:
            if len(places) == 1:
                self._ward.take_in(int(ids[places[0]]), error)
                return [int(places[0])]
            return [
                place
                for half in np.array_split(places, 2)
                for place in self._damaged(ids, epochs, half)
            ]
        return []


def _table(rows: Tensor | None) -> npt.NDArray[Any] | None:
    if rows is None:
        return None
    plain = rows.detach().cpu()
    # numpy has no bfloat16 nor float8; their numbers all are float32's too.
    is_known = not plain.dtype.is_floating_point or plain.dtype in _FLOATS
    table: npt.NDArray[Any] = (plain if is_known else plain.float()).numpy()
    return table


_FLOATS = (torch.float16, torch.float32, torch.float64)


def _holds(rule: Column, tables: Mapping[str, npt.NDArray[Any]]) -> bool:
    return rule.hold(tables[rule.name]) if rule.name in tables else not rule.required
