"""Bytes of a dataset's objects, by range, wherever they lie: what sources are written against."""

from .access import Access, NextUse, Ranges
from .cached import CachedAccess
from .extents import extent_bytes
from .local import LocalAccess
from .total import total_counts

__all__ = [
    "Access",
    "CachedAccess",
    "LocalAccess",
    "NextUse",
    "Ranges",
    "extent_bytes",
    "total_counts",
]
