"""What happened in one tier of the cache, as this process saw it."""

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Counts since the cache was opened. Added to without a lock: one bytecode's worth of work."""

    hits: int = 0
    hit_bytes: int = 0
    puts: int = 0
    put_bytes: int = 0
    evictions: int = 0
    evicted_bytes: int = 0
    bypassed: int = 0
    """Not admitted, since all that is kept is needed sooner."""
    corrupt: int = 0
    """Entries whose size, trailer or digest was wrong; deleted, and missed."""
    refused: int = 0
    """Not kept for want of room that may be freed, of permission, or because a call failed."""
