"""A node's cache of extents: memory and disk before the store, shared by all its processes.

It takes names, bytes and a function that foretells; it knows no store, no order and no fetching.

get --> open map --> RAM tier --> disk tier --> None: lease, fetch, put --(Belady)--> RAM --> disk
"""

from .cache import Cache
from .config import CacheConfig
from .counters import Counters
from .foresight import NextUse
from .leases import Lease
from .name import LARGEST_EXTENT, SMALLEST_EXTENT, ExtentName, object_name
from .policy import Verdict, eviction_order, victims

__all__ = [
    "LARGEST_EXTENT",
    "SMALLEST_EXTENT",
    "Cache",
    "CacheConfig",
    "Counters",
    "ExtentName",
    "Lease",
    "NextUse",
    "Verdict",
    "eviction_order",
    "object_name",
    "victims",
]
