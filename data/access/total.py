"""The counts of several accesses as one: what they share is counted once."""

from collections.abc import Iterable

from .access import Access
from .cached import CachedAccess
from .tally import cache_tally, fetch_tally


def total_counts(accesses: Iterable[Access]) -> dict[str, float]:
    """Sums over accesses, fetchers and caches since each was opened, in this process; of seconds
    the longest. {} where all are local files, which count nothing.

    "amplification" is bytes fetched for each byte read; absent while none was read.
    """
    cached = [one for one in accesses if isinstance(one, CachedAccess)]
    shared = [
        *(fetch_tally(one) for one in {id(a.fetcher): a.fetcher for a in cached}.values()),
        *(cache_tally(one) for one in {id(a.cache): a.cache for a in cached}.values()),
    ]
    total: dict[str, float] = {}
    for counts in (*(one.own_counts for one in cached), *shared):
        for name, value in counts.items():
            before = total.get(name, 0)
            total[name] = max(before, value) if name.endswith("_seconds") else before + value
    if total.get("read_bytes"):
        total["amplification"] = total["fetched_bytes"] / total["read_bytes"]
    return total
