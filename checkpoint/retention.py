"""What to keep of what was saved, as a pure function over plain values: no clock, no files."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class BestMode(StrEnum):
    """Which of two values of a metric is the better one."""

    min = "min"
    max = "max"


@dataclass(frozen=True, kw_only=True, slots=True)
class Keep:
    """Which checkpoints stay; what any one of the rules keeps stays."""

    last: int
    """How many of the newest whole ones; at least 1 stays, whatever this says."""
    every_steps: int = 0
    """Those of multiples of this many steps, the newest whole one of each; 0: none."""
    best: int = 0
    """How many of the best whole ones by their metric; 0: none."""
    mode: BestMode = BestMode.min
    """Whether the best are the smallest or the largest."""
    metric: str | None = None
    """Name of the metric that the best are told by."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A checkpoint as retention sees it; `metric` is None where it was not measured."""

    folder: str
    step: int
    is_whole: bool
    metric: float | None = None
    is_tagged: bool = False


def removals(candidates: Sequence[Candidate], keep: Keep) -> list[Candidate]:
    """Those of `candidates`, given newest first, that go.

    A damaged one is never counted as kept: it goes once `keep.last` whole ones are newer. Tagged
    ones stay. If none is whole, nothing goes.
    """
    whole = [one for one in candidates if one.is_whole]
    if not whole:
        return []
    last = whole[: max(keep.last, 1)]
    oldest = candidates.index(last[-1])
    stay = {one.folder for one in (*candidates[: oldest + 1], *_multiples(whole, keep))}
    stay |= {one.folder for one in _best(whole, keep)}
    return [one for one in candidates if one.folder not in stay and not one.is_tagged]


def _multiples(whole: Sequence[Candidate], keep: Keep) -> list[Candidate]:
    if keep.every_steps < 1:
        return []
    by_step = {one.step: one for one in reversed(whole) if one.step % keep.every_steps == 0}
    return list(by_step.values())


def _best(whole: Sequence[Candidate], keep: Keep) -> list[Candidate]:
    sign = 1 if keep.mode is BestMode.min else -1
    measured = [(sign * one.metric, one) for one in whole if one.metric is not None]
    measured.sort(key=lambda pair: pair[0])  # stable: of equals the newest
    return [one for _, one in measured[: max(keep.best, 0)]]
