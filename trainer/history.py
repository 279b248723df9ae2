"""The last gradient norms of a run, and how far a new one stands out of them."""

import math
import statistics
from collections import deque
from typing import final

# Steps that are remembered: enough for a median that one bad stretch does not move.
_STEPS = 128
_FEWEST = 16
# Of a normal distribution: standard deviation over median absolute deviation.
_SIGMA_OF_MAD = 1.4826
# A run whose norms hardly move would call every wobble a spike.
_SMALLEST_SIGMA = 0.05


@final
class NormHistory:
    """Norms of the steps that were applied; equal on all ranks, and part of a checkpoint."""

    def __init__(self) -> None:
        self._logs: deque[float] = deque(maxlen=_STEPS)

    def score(self, norm: float) -> float | None:
        """Robust standard deviations of log(norm) above the median of the history; None while the
        history is short or where the norm has no logarithm.

        Median and median absolute deviation: Rousseeuw and Croux, JASA 88 (1993), 1273.
        """
        if len(self._logs) < _FEWEST or not (0 < norm < math.inf):
            return None
        median = statistics.median(self._logs)
        spread = statistics.median(abs(one - median) for one in self._logs)
        return (math.log(norm) - median) / max(_SIGMA_OF_MAD * spread, _SMALLEST_SIGMA)

    def add(self, norm: float) -> None:
        """Remembers the norm of a step that was applied; one without a logarithm says nothing."""
        if 0 < norm < math.inf:
            self._logs.append(math.log(norm))

    def state_dict(self) -> list[float]:
        """Plain numbers for a manifest."""
        return list(self._logs)

    def load_state_dict(self, state: list[float]) -> None:
        """Takes over the numbers of a manifest."""
        self._logs = deque(state, maxlen=_STEPS)
