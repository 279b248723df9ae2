"""The last gradient norms and losses of a run, and how far a new one stands out of them."""

import math
import statistics
from collections import deque
from collections.abc import Sequence
from typing import final

# Steps that are remembered: enough for a median that one bad stretch does not move.
_STEPS = 128
_FEWEST = 16
# Of a normal distribution: standard deviation over median absolute deviation.
_SIGMA_OF_MAD = 1.4826
# A run whose numbers hardly move would call every wobble a spike. Of logarithms, or as a part of
# the median; a loss wobbles less than a norm does.
_SMALLEST_OF_NORMS, _SMALLEST_OF_LOSSES = 0.1, 0.03


def _score(values: Sequence[float], value: float, smallest: float) -> float:
    """Robust standard deviations of `value` above the median of `values`.

    Median and median absolute deviation: Rousseeuw and Croux, JASA 88 (1993), 1273.
    """
    median = statistics.median(values)
    spread = statistics.median(abs(one - median) for one in values)
    return (value - median) / max(_SIGMA_OF_MAD * spread, smallest)


@final
class NormHistory:
    """Norms of the steps that were applied; equal on all ranks, and part of a checkpoint."""

    def __init__(self) -> None:
        self._logs: deque[float] = deque(maxlen=_STEPS)

    def __len__(self) -> int:
        return len(self._logs)

    def score(self, norm: float) -> float | None:
        """Robust standard deviations of log(norm) above the median of the history; None while the
        history is short or where the norm has no logarithm."""
        if len(self._logs) < _FEWEST or not (0 < norm < math.inf):
            return None
        return _score(self._logs, math.log(norm), _SMALLEST_OF_NORMS)

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


@final
class LossHistory:
    """Losses of the steps that were applied; equal on all ranks, and part of a checkpoint."""

    def __init__(self) -> None:
        self._losses: deque[float] = deque(maxlen=_STEPS)

    def score(self, loss: float) -> float | None:
        """Robust standard deviations above the median of the history: of the logarithms where all
        are positive, since their noise is then in proportion, else of the losses themselves. None
        while the history is short or says nothing of such a loss."""
        if len(self._losses) < _FEWEST or not math.isfinite(loss):
            return None
        if loss > 0 and min(self._losses) > 0:
            return _score(
                [math.log(one) for one in self._losses], math.log(loss), _SMALLEST_OF_LOSSES
            )
        smallest = _SMALLEST_OF_LOSSES * abs(statistics.median(self._losses))
        return _score(self._losses, loss, smallest) if smallest else None

    def add(self, loss: float) -> None:
        """Remembers the loss of a step that was applied."""
        if math.isfinite(loss):
            self._losses.append(loss)

    def state_dict(self) -> list[float]:
        """Plain numbers for a manifest."""
        return list(self._losses)

    def load_state_dict(self, state: list[float]) -> None:
        """Takes over the numbers of a manifest."""
        self._losses = deque(state, maxlen=_STEPS)
