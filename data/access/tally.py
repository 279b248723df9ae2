"""What fetchers and caches counted, under flat names. Counts nothing itself."""

from dataclasses import asdict

from ..cache import Cache
from ..fetch import Fetcher

_FETCHED = ("gets", "hedges", "hedges_won", "throttles", "delivered", "limit")


def fetch_tally(fetcher: Fetcher) -> dict[str, float]:
    """Requests and bytes so far, retries by cause (retries_<cause>), and quantiles of seconds: of
    single requests, and from a range's first request to its bytes (delivery)."""
    counts = fetcher.counts
    found: dict[str, float] = {name: getattr(counts, name) for name in _FETCHED}
    found["get_bytes"] = counts.bytes
    found["retries"] = sum(counts.retries.values())
    found |= {f"retries_{cause}": count for cause, count in sorted(counts.retries.items())}
    for name in ("request", "delivery"):
        quantiles = getattr(counts, f"{name}_seconds")._asdict()
        found |= {f"{name}_{quantile}_seconds": value for quantile, value in quantiles.items()}
    return found


def cache_tally(cache: Cache) -> dict[str, float]:
    """Counters of each tier of this process (<tier>_hits, <tier>_hit_bytes, <tier>_evictions, ...),
    and what no tier had or took.

    An extent that came in is found in a tier once, which counts as a hit; while its bytes stay
    open here they are read without another."""
    found: dict[str, float] = {"misses": cache.misses, "uncached": cache.uncached}
    for tier, counters in cache.counters().items():
        found |= {f"{tier}_{name}": value for name, value in asdict(counters).items()}
    return found
