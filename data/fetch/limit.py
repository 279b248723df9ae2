"""How many requests may be in flight: additive increase, multiplicative decrease. No clock."""

from typing import final

_DECREASE = 0.6
_BETTER = 1.03


@final
class Limit:
    """Halves, nearly, when the store throttles; grows by one a round of requests otherwise.

    Below `start` it grows whatever happens: that much is assumed to be useful. Above, it grows
    only while a round brings more bytes per second than the rounds before, since more in flight
    would add nothing but waiting. (AIMD: Chiu and Jain 1989; one decrease a round trip: TCP Reno.)
    """

    def __init__(self, *, least: int, start: int, most: int) -> None:
        self.value = start
        self._least, self._start, self._most = least, start, most
        self._decreased = float("-inf")
        self._began: float | None = None
        self._bytes = 0
        self._count = 0
        self._is_full = False
        self._rate = 0.0

    def succeeded(self, now: float, size: int, in_flight: int) -> None:
        """A request of `size` bytes came back while `in_flight`, itself included, were under
        way."""
        if self._began is None:
            return self._begin(now)  # how long it took those before cannot be told
        self._bytes += size
        self._count += 1
        self._is_full = self._is_full or in_flight >= self.value
        if self._count < max(self.value, 8):
            return
        rate = self._bytes / max(now - self._began, 1e-6)
        if self._is_full and (self.value < self._start or rate > _BETTER * self._rate):
            self.value = min(self._most, self.value + 1)
        self._rate = rate if not self._rate else 0.7 * self._rate + 0.3 * rate
        self._begin(now)

    def throttled(self, now: float, began: float) -> None:
        """The store refused a request that was sent at `began`."""
        if began <= self._decreased:
            return  # sent before the last decrease could show
        self.value = max(self._least, int(self.value * _DECREASE))
        self._decreased = now
        self._rate = 0.0
        self._begin(now)

    def _begin(self, now: float) -> None:
        self._began, self._bytes, self._count, self._is_full = now, 0, 0, False
