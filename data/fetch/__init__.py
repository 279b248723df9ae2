"""Fetching: ranges of stored objects by when they are due, whatever the store does meanwhile.

Knows a store and no cache. Everything that waits, fails or is slow is seen and counted here.
"""

from .config import FetchConfig
from .counts import FetchCounts
from .fetcher import Fetcher
from .health import Outage
from .latencies import Quantiles

__all__ = ["FetchConfig", "FetchCounts", "Fetcher", "Outage", "Quantiles"]
