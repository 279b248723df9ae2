"""Running quantiles of latencies, in a histogram whose buckets grow by a tenth. No clock."""

import math
from typing import NamedTuple, final

_LEAST_SECONDS = 0.001
_GROWTH = math.log(1.1)
_BUCKETS = 150
_REMEMBERED = 2048


class Quantiles(NamedTuple):
    """Seconds; 0.0 where nothing was seen."""

    p50: float
    p95: float
    p99: float


@final
class Latencies:
    """The distribution of recent latencies: what is older than some 2,000 counts half, a quarter...

    One thread adds at a time; any may read.
    """

    def __init__(self) -> None:
        self._counts = [0.0] * _BUCKETS
        self._total = 0.0
        self.seen = 0

    def add(self, seconds: float) -> None:
        place = math.ceil(math.log(max(seconds, _LEAST_SECONDS) / _LEAST_SECONDS) / _GROWTH)
        self._counts[min(place, _BUCKETS - 1)] += 1
        self._total += 1
        self.seen += 1
        if self._total >= _REMEMBERED:
            self._counts = [count / 2 for count in self._counts]
            self._total /= 2

    def quantile(self, share: float) -> float:
        """A latency in seconds, at most a tenth too long, that `share` of the latencies do not
        exceed."""
        wanted, sum_ = share * self._total, 0.0
        for place, count in enumerate(self._counts):
            sum_ += count
            if count and sum_ >= wanted - 1e-9:
                return _LEAST_SECONDS * math.exp(_GROWTH * place)
        return 0.0

    @property
    def quantiles(self) -> Quantiles:
        return Quantiles(self.quantile(0.5), self.quantile(0.95), self.quantile(0.99))
