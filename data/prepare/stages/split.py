"""Which documents are held out for evaluation: a pure function of their names and a seed."""

import numpy as np
import numpy.typing as npt


def limit(lowest: int, highest: int, fraction: float) -> int:
    """The hash below which documents are held out, of hashes from `lowest` to `highest`.

    Of two or more different ones, one at least is held out and one is not; otherwise a document
    keeps its side when others come or go.
    """
    found = int(fraction * 2**64)
    return min(max(found, lowest + 1), max(highest, lowest + 1))


def held_out(hashes: npt.NDArray[np.uint64], fraction: float) -> npt.NDArray[np.bool_]:
    """Whether each of these documents is held out, where they are all there are."""
    if len(hashes) < 2:
        return np.zeros(len(hashes), dtype=np.bool_)
    return hashes < np.uint64(limit(int(hashes.min()), int(hashes.max()), fraction))
