"""Bytes of a dataset's objects, by range, wherever they lie: what sources are written against."""

from .access import Access, NextUse, Ranges
from .cached import CachedAccess
from .digests import QUICK, STRONG, algorithm_of, new_hash
from .extents import Cut, ExtentMap, extent_bytes, samples_of
from .local import LocalAccess
from .total import total_counts

__all__ = [
    "QUICK",
    "STRONG",
    "Access",
    "CachedAccess",
    "Cut",
    "ExtentMap",
    "LocalAccess",
    "NextUse",
    "Ranges",
    "algorithm_of",
    "extent_bytes",
    "new_hash",
    "samples_of",
    "total_counts",
]
