"""What an order must fetch at the least, through a cache of some extents: a plain simulation."""

import heapq
from collections.abc import Sequence

import numpy as np

from keepstep.data import Order
from keepstep.data.access import ExtentMap, Ranges


def touched(
    order: Order, extents: ExtentMap, starts: np.ndarray, width: int, batch: int, epochs: int
) -> list[list[int]]:
    """The extents of each batch; sample i is `width` bytes from byte starts[i] on of object 0."""
    steps = []
    for position in range(0, order.recipe.num_samples * epochs, batch):
        begins = starts[order.batch(position, batch)]
        first, last, _ = extents.locate(Ranges(np.zeros_like(begins), begins, begins + width))
        steps.append(np.unique(np.concatenate([first, last])).tolist())
    return steps


def fewest(steps: Sequence[Sequence[int]], kept: int) -> list[int]:
    """Extents fetched in each step where `kept` of them are kept, those needed soonest (Belady)."""
    following: list[list[int]] = []
    later: dict[int, int] = {}
    for step in range(len(steps) - 1, -1, -1):
        following.append([later.get(extent, 2**62) for extent in steps[step]])
        later.update(dict.fromkeys(steps[step], step))
    have: dict[int, int] = {}
    farthest: list[tuple[int, int]] = []
    fetched = []
    for some, uses in zip(steps, reversed(following), strict=True):
        fetched.append(len(set(some) - have.keys()))
        for extent, use in zip(some, uses, strict=True):
            have[extent] = use
            heapq.heappush(farthest, (-use, extent))
        while len(have) > kept:
            use, extent = heapq.heappop(farthest)
            if have.get(extent) == -use:
                del have[extent]
    return fetched
