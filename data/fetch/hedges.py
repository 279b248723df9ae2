"""Which requests are late enough to be asked a second time, within a budget. No clock.

Source: Dean and Barroso, The Tail at Scale, 2013.
"""

from typing import final

from .latencies import Latencies

_FLOOR = 4
_ENOUGH = 20
_LEAST_SECONDS = 0.02
_QUIET_SECONDS = 1.0


@final
class Hedges:
    """Counts requests, and allows `share` of them, and a few more at first, a second one.

    The share falls with the hedges that lost: where all requests are slow, because what lies
    between is full, second ones only add to it.
    """

    def __init__(self, *, share: float, slack_seconds: float, first_seconds: float) -> None:
        self._share = share
        self._slack = slack_seconds
        self._first = first_seconds
        self._classes: dict[int, Latencies] = {}
        self._throttled = float("-inf")
        self.requests = 0
        self.hedges = 0
        self.won = 0

    def succeeded(self, size: int, seconds: float) -> None:
        """A request for `size` bytes took so long."""
        self._classes.setdefault(_size_class(size), Latencies()).add(seconds)

    def throttled(self, now: float) -> None:
        """The store asks for fewer requests: none is doubled for a while."""
        self._throttled = now

    def is_late(self, now: float, size: int, began: float, due: float) -> bool:
        """Whether a request that is still under way should be asked again."""
        if due - now > self._slack or now - self._throttled < _QUIET_SECONDS:
            return False
        if now - began <= self.late_seconds(size):
            return False
        useful = (self.won + _FLOOR) / (self.hedges + _FLOOR)
        return self._share > 0 and self.hedges < _FLOOR + self._share * useful * self.requests

    def late_seconds(self, size: int) -> float:
        """What 95 of 100 requests of this size do not exceed, and 20 ms at least."""
        seen = self._classes.get(_size_class(size))
        if seen is None or seen.seen < _ENOUGH:
            return self._first
        return max(_LEAST_SECONDS, seen.quantile(0.95))


def _size_class(size: int) -> int:
    """Powers of two; what is below 16 KiB takes as long as any other of these."""
    return max(0, (size - 1).bit_length() - 14)
