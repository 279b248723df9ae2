"""Where a run's wall time went, and when: the ledger's states, one behind the other.

Each state says how many seconds every account had by a moment, so the difference of two is what was
spent between them: true to the second, however the accounts took turns within it.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...recovery.books import Account

_NAMES = [account.value for account in Account]


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Seconds by account between two moments, both in seconds since the run's begin."""

    begin: float
    end: float
    seconds: Mapping[str, float]


def spans(metrics: Sequence[Mapping[str, Any]], ledger: Mapping[str, Any]) -> list[Span]:
    """Of a run's lines and its ledger.json, without a gap. A span's length is what was booked in
    it: the time of all spans together is what the ledger holds."""
    states = [{**dict.fromkeys(_NAMES, 0.0)}]
    said = [line["ledger"] for line in metrics if "ledger" in line]
    kept = dict(ledger.get("seconds", {}))
    for one in [*said, *([kept] if kept else [])]:
        state = {name: float(one.get(name, 0.0)) for name in _NAMES}
        # A job that was killed took with it what its guardian had not kept yet; the next one booked
        # that time as waited for.
        while not _follows(state, states[-1]):
            states.pop()
        states.append(state)
    found, begin = [], 0.0
    for before, after in itertools.pairwise(states):
        spent = {name: after[name] - before[name] for name in _NAMES}
        end = begin + sum(spent.values())
        if end > begin:
            found.append(Span(begin=begin, end=end, seconds=spent))
        begin = end
    return found


def binned(found: Sequence[Span], count: int) -> tuple[float, dict[str, list[float]]]:
    """The same in `count` bins of one width, which comes first, and the seconds of each account in
    each bin; a span's accounts are spread evenly over it."""
    width = found[-1].end / count if found else 0.0
    bins = {name: [0.0] * count for name in _NAMES}
    for span in found:
        first, last = int(span.begin / width), min(count - 1, int(span.end / width))
        for place in range(first, last + 1):
            inside = min(span.end, (place + 1) * width) - max(span.begin, place * width)
            share = max(0.0, inside) / (span.end - span.begin)
            for name, seconds in span.seconds.items():
                bins[name][place] += share * seconds
    return width, {name: row for name, row in bins.items() if any(row)}


def begin_of(metrics: Sequence[Mapping[str, Any]], ledger: Mapping[str, Any]) -> float | None:
    """Unix seconds at which the run began, by its ledger or by its first line with one; None where
    neither says."""
    if "since" in ledger:
        return float(ledger["since"])
    for line in metrics:
        if "ledger" in line:
            booked = {key: float(value) for key, value in line["ledger"].items()}
            return booked.pop("until") - sum(booked.values())
    return None


def _follows(after: Mapping[str, float], before: Mapping[str, float]) -> bool:
    return all(after[name] >= before[name] - 1e-3 for name in _NAMES)
