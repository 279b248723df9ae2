"""Whether the store answers at all. No clock."""

from typing import NamedTuple, final

_FAILURES = 8
_SECONDS = 0.5


class Outage(NamedTuple):
    """A time in which nothing succeeds."""

    since: float
    """When the first request failed, by the fetcher's clock."""
    why: str
    """The last error's sentence."""


@final
class Health:
    """Eight failures over half a second without a success between them are an outage."""

    def __init__(self) -> None:
        self._failures = 0
        self._since = 0.0
        self.outage: Outage | None = None

    def succeeded(self) -> bool:
        """Notes a success; whether an outage ended by it."""
        is_over = self.outage is not None
        self._failures, self.outage = 0, None
        return is_over

    def failed(self, now: float, why: str) -> None:
        """Notes a failure that may pass."""
        if not self._failures:
            self._since = now
        self._failures += 1
        if self._failures >= _FAILURES and now - self._since >= _SECONDS:
            self.outage = Outage(self._since, why)
