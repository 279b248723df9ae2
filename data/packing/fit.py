"""Pieces of given lengths -> bins of one capacity, best fit first. Pure functions.

Best-fit decreasing: the longest piece first, each into the fullest bin that still has room (D. S.
Johnson, "Near-optimal bin packing algorithms", 1973; for training sequences Ding et al., "Fewer
truncations improve language modeling", arXiv 2404.10830).
"""

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]


def cut_long(starts: Numbers, lengths: Numbers, capacity: int) -> tuple[Numbers, Numbers]:
    """Starts and lengths of pieces of at most `capacity` tokens, in the documents' order.

    Pieces of one document share a token: the last target of one is the first input of the next.
    Documents of a single token have no target and are left out.
    """
    step = capacity - 1
    counts = np.where(lengths < 2, 0, np.maximum(1, -(-(lengths - 1) // step)))
    owners = np.repeat(np.arange(len(starts)), counts)
    numbers = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    offsets = numbers * step
    return starts[owners] + offsets, np.minimum(capacity, lengths[owners] - offsets)


def best_fit(lengths: Numbers, capacity: int) -> list[list[int]]:
    """The bins, each a list of places in `lengths`; every place once, no bin over `capacity`."""
    bins: list[list[int]] = []
    # Bins by the room they have left, and as a bit mask which rooms there are: the fullest bin
    # with room for n is then the lowest bit at n or above.
    by_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms = 0
    order = np.argsort(-lengths, kind="stable").tolist()
    sizes = lengths.tolist()
    for place in order:
        size = sizes[place]
        above = rooms >> size
        if above:
            room = size + (above & -above).bit_length() - 1
            number = by_room[room].pop()
            if not by_room[room]:
                rooms &= ~(1 << room)
            bins[number].append(place)
        else:
            room, number = capacity, len(bins)
            bins.append([place])
        left = room - size
        if left:
            by_room[left].append(number)
            rooms |= 1 << left
    return bins
