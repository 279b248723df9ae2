"""What guards find in one step: plain values."""

from dataclasses import dataclass
from enum import IntEnum


@dataclass(frozen=True, kw_only=True, slots=True)
class Spike:
    """A finite number that stands out of the last steps'."""

    what: str
    """loss or gradient norm."""
    value: float
    score: float
    """Robust standard deviations above the median."""

    def __str__(self) -> str:
        return (
            f"{self.what} {self.value:.4g} stands {self.score:.1f} robust standard deviations out"
        )


class Odd(IntEnum):
    """How much a replay has shown of a rank's bits; of several ranks the most counts."""

    none = 0
    suspect = 1
    """A gradient that it shares with others differs: any of them may have computed it."""
    corrupt = 2
    """What it computed by itself differs."""
