"""Which documents are held out for evaluation: a pure function of their names and a seed."""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xxhash


@dataclass(slots=True)
class Survey:
    """What one pass over the documents tells: 8 bytes a document are kept."""

    hashes: npt.NDArray[np.uint64]
    characters: int

    def __len__(self) -> int:
        return len(self.hashes)


def survey(documents: Iterable[tuple[str, str]], seed: int) -> Survey:
    """Counts the documents and hashes their names under `seed`."""
    hashes, characters = array("Q"), 0
    for name, text in documents:
        hashes.append(xxhash.xxh3_64_intdigest(name.encode(), seed=seed))
        characters += len(text)
    return Survey(np.frombuffer(hashes, dtype=np.uint64), characters)


def held_out(hashes: npt.NDArray[np.uint64], fraction: float) -> npt.NDArray[np.bool_]:
    """Whether each document is held out; of two or more, one at least is and one is not.

    A document keeps its side when others come or go, but for the one that fills an empty side.
    """
    is_held = hashes < np.uint64(int(fraction * 2**64))
    if len(hashes) > 1 and not is_held.any():
        is_held[np.argmin(hashes)] = True
    if len(hashes) > 1 and is_held.all():
        is_held[np.argmax(hashes)] = False
    return is_held
