"""Equal keys among sorted columns, found in a bounded amount of memory."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Places = npt.NDArray[np.int64]
_ROWS = 1 << 22


class Sorted(NamedTuple):
    """One part's keys in ascending order, and the place of each among all documents."""

    keys: npt.NDArray[Any]
    """uint64."""
    more: npt.NDArray[Any] | None
    """A second half of the keys, uint64, or None."""
    places: npt.NDArray[Any]


def groups(columns: Sequence[Sorted], rows: int = _ROWS) -> Iterator[tuple[Places, Places, Places]]:
    """Those that have the key of an earlier place: for each, the first with the key and the one
    before it, as (firsts, previous, others), the same whatever `rows` is but for their order.

    A merge by ranges of keys: about `rows` keys are held at a time, some 60 bytes each; keys are
    hashes, so that even ranges hold about even numbers.
    """
    total = sum(len(column.keys) for column in columns)
    count = max(1, -(-total // rows))
    edges = [2**64 * index // count for index in range(1, count)]
    cuts = [
        [0, *np.searchsorted(c.keys, np.array(edges, np.uint64)).tolist(), len(c.keys)]
        for c in columns
    ]
    for index in range(count):
        pieces = [
            Sorted(*(None if x is None else x[cut[index] : cut[index + 1]] for x in column))  # type: ignore[arg-type]
            for column, cut in zip(columns, cuts, strict=True)
        ]
        yield _within(pieces)


def _within(pieces: Sequence[Sorted]) -> tuple[Places, Places, Places]:
    keys = np.concatenate([piece.keys for piece in pieces])
    places = np.concatenate([piece.places for piece in pieces]).astype(np.int64)
    halves = [piece.more for piece in pieces if piece.more is not None]
    more = np.concatenate(halves) if halves else np.zeros(len(keys), np.uint64)
    order = np.lexsort((places, more, keys))
    keys, more, places = keys[order], more[order], places[order]
    is_same = np.zeros(len(keys), dtype=np.bool_)
    is_same[1:] = (keys[1:] == keys[:-1]) & (more[1:] == more[:-1])
    at = np.flatnonzero(is_same)
    # The start of each run, carried over the run.
    starts = np.maximum.accumulate(np.where(is_same, 0, np.arange(len(keys))))
    return places[starts[at]], places[at - 1], places[at]
