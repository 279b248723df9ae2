"""Who goes when room is needed: pure functions of next uses, ages and sizes."""

from collections.abc import Iterable
from enum import Enum

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]


class Verdict(Enum):
    """Why a newcomer is not admitted."""

    bypass = "bypass"
    """Everything that could go is needed sooner than the newcomer, or as soon."""
    refuse = "refuse"
    """What could go is not enough; the rest is others' and in use."""


def eviction_order(next_use: Floats, age: Floats, idle_seconds: float) -> Places:
    """Places of the entries that may be evicted, the first to go first.

    First the entries of objects that nobody here knows and that were not used for `idle_seconds`,
    the oldest first; then the known ones, the farthest next use first (Belady, "A study of
    replacement algorithms for a virtual-storage computer", IBM Systems Journal 1966). Unknown
    entries in use are not in it.

    Args:
        next_use: (n,) position at which each entry is needed next; inf never, nan unknown.
        age: (n,) seconds since each entry was used.
    """
    unknown = np.isnan(next_use)
    idle = np.flatnonzero(unknown & (age >= idle_seconds))
    known = np.flatnonzero(~unknown)
    return np.concatenate(
        (
            idle[np.argsort(-age[idle], kind="stable")],
            known[np.argsort(-next_use[known], kind="stable")],
        )
    )


def victims(
    queue: Iterable[tuple[int, float]], needed_bytes: int, newcomer_use: float
) -> int | Verdict:
    """How many of the queue's first must go so that `needed_bytes` become free, or why none may.

    A known entry goes only for a newcomer that is needed sooner. One whose next use is unknown
    takes the place of entries that are never needed again, and of no others.

    Args:
        queue: size in bytes and next use (nan unknown) of each entry, in `eviction_order`.
        newcomer_use: the newcomer's next use; inf never, nan unknown.
    """
    mine = np.finfo(np.float64).max if np.isnan(newcomer_use) else newcomer_use
    freed = count = 0
    entries = iter(queue)
    while freed < needed_bytes:
        size, use = next(entries, (0, None))
        if use is None:
            return Verdict.refuse
        if use <= mine:  # false for nan: idle entries go for anyone
            return Verdict.bypass
        freed, count = freed + size, count + 1
    return count
