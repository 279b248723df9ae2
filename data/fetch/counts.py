"""What a fetcher did so far."""

from dataclasses import dataclass, field

from .latencies import Quantiles


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchCounts:
    """A picture of one moment."""

    gets: int
    """Requests sent, hedges and retries among them."""
    bytes: int
    """Bytes that came in, those that nobody needed any more among them."""
    delivered: int
    """Ranges handed out."""
    delivered_bytes: int
    hedges: int
    """Requests that asked again for what another was still asking for."""
    hedges_won: int
    """Hedges that came in first."""
    retries: dict[str, int] = field(default_factory=dict)
    """Requests that failed and were made again, by cause: timeout, reset, short, refused, 503, 5xx,
    digest, ..."""
    throttles: int
    """Answers that asked for fewer requests."""
    in_flight: int
    waiting: int
    """Ranges not asked for yet or waiting to be asked for again."""
    limit: int
    """Requests that may be in flight now."""
    request_seconds: Quantiles
    """Of single requests that succeeded."""
    delivery_seconds: Quantiles
    """From a range's first request to its bytes."""
