"""What a user sets about fetching: how much at once, how often again, how long an outage."""

from dataclasses import dataclass


@dataclass(kw_only=True, slots=True)
class FetchConfig:
    """How ranges are fetched from a store by one process."""

    start_in_flight: int = 64
    """Requests in flight at first. Throttled below it, the limit grows back by one a round."""

    least_in_flight: int = 2
    """The limit never falls below this; it is also how many requests probe during an outage."""

    most_in_flight: int = 96
    """The limit never rises above this; above the start it rises only while more bytes come in."""

    attempts: int = 10
    """Failures of one range after which it is given up, while others succeed. Throttles and
    failures during an outage are not counted."""

    check_attempts: int = 3
    """Arrivals of one range with a wrong digest after which it is given up as corrupt."""

    backoff_seconds: float = 0.05
    """The least wait before a range is asked for again."""

    backoff_most_seconds: float = 3.0
    """The longest wait before a range is asked for again."""

    outage_seconds: float = 3600.0
    """How long nothing may succeed before what is asked for fails; 0 waits for ever."""

    hedge_share: float = 0.05
    """The share of requests, at most, that are asked a second time because they are late."""

    hedge_slack_seconds: float = 2.0
    """Only what is due within this many seconds is asked a second time."""

    hedge_first_seconds: float = 0.25
    """When a request is late, until enough of its size were seen to tell."""

    def __post_init__(self) -> None:
        if not 1 <= self.least_in_flight <= self.start_in_flight <= self.most_in_flight:
            raise ValueError(
                f"data.fetch: found least_in_flight={self.least_in_flight}, start_in_flight="
                f"{self.start_in_flight} and most_in_flight={self.most_in_flight}, needed "
                "1 <= least <= start <= most; set them in this order"
            )
        for name in ("attempts", "check_attempts"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"data.fetch.{name}: found {getattr(self, name)}, needed 1 or more; set "
                    f"data.fetch.{name}=1 or leave it out"
                )
        if not 0 < self.backoff_seconds <= self.backoff_most_seconds:
            raise ValueError(
                f"data.fetch.backoff_seconds: found {self.backoff_seconds}, needed more than 0 "
                f"and at most data.fetch.backoff_most_seconds={self.backoff_most_seconds}; set "
                "one of both"
            )
        if not 0 <= self.hedge_share <= 1:
            raise ValueError(
                f"data.fetch.hedge_share: found {self.hedge_share}, needed a share from 0 to 1; "
                "set data.fetch.hedge_share=0.05 or leave it out"
            )
