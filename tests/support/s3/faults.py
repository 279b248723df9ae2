"""What the test S3 server does wrong, as rates; and what befalls one request, drawn from them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(kw_only=True, slots=True)
class Faults:
    """How a server misbehaves. Shares are of GET requests for objects, between 0 and 1."""

    latency: float = 0.0
    """Seconds from a request to its first byte."""
    tail_share: float = 0.0
    """Share of requests that wait `tail_seconds` longer."""
    tail_seconds: float = 0.5
    bandwidth: float = 0.0
    """Bytes per second of each connection; 0 sets no bound."""
    throttle: float = 0.0
    """Share of requests that begin a burst of `throttle_burst` answers 503 SlowDown."""
    throttle_burst: int = 1
    throttle_above: int = 0
    """503 to what would be more than this many requests in flight; 0 sets no bound."""
    error: float = 0.0
    """Share answered 500 InternalError."""
    deny: float = 0.0
    """Share answered 403 AccessDenied."""
    reset: float = 0.0
    """Share whose connection is reset in the middle of the body."""
    end: float = 0.0
    """Share whose connection is closed in order in the middle of the body."""
    short: float = 0.0
    """Share answered with fewer bytes than asked for, with headers that agree with them."""
    flip: float = 0.0
    """Share in whose body one bit is flipped."""
    retag: float = 0.0
    """Share that carry another ETag, whatever condition was asked for."""
    slow: float = 0.0
    """Share whose body drips at `slow_bytes` a second."""
    slow_bytes: float = 1000.0
    ignore_conditions: bool = False
    """Answer as if If-Match and If-None-Match had not been sent."""


KINDS = ("error", "deny", "reset", "end", "short", "flip", "retag", "slow")


class Fate(NamedTuple):
    """What befalls one request."""

    delay: float
    """Seconds before the first byte."""
    kind: str
    """One of KINDS, "throttle", or "" where nothing befalls it."""
    place: float
    """Where in the body, as a share of it."""


class Dice:
    """Draws fates; the same seed and order of requests give the same ones."""

    def __init__(self, uniform: Callable[[], float]) -> None:
        self._uniform = uniform
        self._burst = 0

    def fate(self, faults: Faults, in_flight: int) -> Fate:
        """What befalls a request that comes while `in_flight` others are being answered."""
        delay = faults.latency
        if faults.tail_share and self._uniform() < faults.tail_share:
            delay += faults.tail_seconds
        if self._is_throttled(faults, in_flight):
            return Fate(faults.latency, "throttle", 0.0)
        point = self._uniform()
        for kind in KINDS:
            point -= getattr(faults, kind)
            if point < 0:
                return Fate(delay, kind, self._uniform())
        return Fate(delay, "", 0.0)

    def _is_throttled(self, faults: Faults, in_flight: int) -> bool:
        if self._burst:
            self._burst -= 1
            return True
        if faults.throttle_above and in_flight >= faults.throttle_above:
            return True
        if faults.throttle and self._uniform() < faults.throttle:
            self._burst = faults.throttle_burst - 1
            return True
        return False
