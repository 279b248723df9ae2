"""Where two runs' bits part, by what they wrote at each step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...guard.bits import BITS
from ...recovery.ledger import read_lines

# What follows from a run's data, settings and arithmetic alone, and not from the machine.
_FIELDS = ("tokens", "lr", "loss", "grad_norm")


@dataclass(frozen=True, kw_only=True, slots=True)
class Parting:
    """What two files say of the steps that both have."""

    steps: int
    """That were compared."""
    step: int | None = None
    """The first in which they differ; None where none does."""
    names: Sequence[str] = ()
    """Of what differs in it."""
    first: str = ""
    """Of the first of these, in one run."""
    second: str = ""


def of_metrics(one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> Parting:
    """Compares the lines of metrics.jsonl, the last of each step."""
    return _parting(
        *(
            {line["step"]: {f: line.get(f) for f in _FIELDS} for line in lines}
            for lines in (one, other)
        )
    )


def of_bits(one: Path, other: Path) -> Parting:
    """Compares the runs' bits.jsonl; no steps where one has none."""
    return _parting(*({line["step"]: line["bits"] for line in _lines(run)} for run in (one, other)))


def _lines(run: Path) -> list[dict[str, Any]]:
    return [line for line in read_lines(run / BITS) if {"step", "bits"} <= line.keys()]


def _parting(
    one: Mapping[int, Mapping[str, Any]], other: Mapping[int, Mapping[str, Any]]
) -> Parting:
    common = sorted(one.keys() & other.keys())
    for step in common:
        before, after = one[step], other[step]
        names = [n for n in {**before, **after} if before.get(n) != after.get(n)]
        if names:
            first, second = (_shown(values.get(names[0])) for values in (before, after))
            return Parting(steps=len(common), step=step, names=names, first=first, second=second)
    return Parting(steps=len(common))


def _shown(value: Any) -> str:
    return f"{value!r} ({value.hex()})" if isinstance(value, float) else str(value)
