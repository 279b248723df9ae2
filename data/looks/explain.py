"""A position of a run -> what is read there: sample, object, bytes, where they are now, by whom.

Reads no samples, and of a store no more than what tells where a sample lies.
"""

from dataclasses import dataclass

import numpy as np

from ..access import Access, CachedAccess, Ranges
from ..corpus import Corpus, Mixed
from ..loader import share_microbatches
from ..order import Mixture, Order
from ..sources import locatable


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """Bytes [start, stop) of one object, unpacked."""

    url: str
    start: int
    stop: int
    extents: list[tuple[int, str]]
    """Its extents, by their numbers in the object, and where each is now: ram, disk, memory, store.
    Empty for a local file, which is read where it lies."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Explained:
    """What a run reads at one position."""

    position: int
    epoch: int
    """Of the sample's own source."""
    source: str | None
    """Of a mixture."""
    sample: int
    """Its id, in its own source."""
    step: int
    """The optimizer step, from 0."""
    rank: int
    """Of those that read different data."""
    microbatch: int
    """Among all of the step."""
    row: int
    """Of the micro-batch."""
    next_use: int | None
    """From which position on, after this one, its block is next wanted; None: never again."""
    pieces: list[Piece]


def explain(
    corpus: Corpus,
    order: Order | Mixture,
    first: int,
    last: int,
    *,
    batch_samples: int,
    microbatch_samples: int,
    ranks: int = 1,
) -> list[Explained]:
    """Positions `first` to `last`, both included.

    Raises:
        ValueError: micro-batches and ranks do not divide the batch.
    """
    each = len(share_microbatches(batch_samples, microbatch_samples, 0, ranks))
    positions = np.arange(first, last + 1, dtype=np.int64)
    epochs, ids = order.samples(positions)
    found = []
    for position, epoch, sample in zip(
        positions.tolist(), epochs.tolist(), ids.tolist(), strict=True
    ):
        step = position // batch_samples
        arranged = order.arrange(step * batch_samples, batch_samples)
        place = int(np.flatnonzero(arranged == position)[0])
        microbatch, row = divmod(place, microbatch_samples)
        source, own = None, sample
        if isinstance(corpus.train, Mixed):
            source, own = corpus.train.owner(sample)
        after = int(order.next_use(np.array([sample], dtype=np.int64), position + 1)[0])
        found.append(
            Explained(
                position=position,
                epoch=epoch,
                source=source,
                sample=own,
                step=step,
                rank=microbatch // each,
                microbatch=microbatch,
                row=row,
                next_use=after if after < 2**62 else None,
                pieces=_pieces(*locatable(corpus.train).where(sample)),
            )
        )
    return found


def _pieces(access: Access, ranges: Ranges) -> list[Piece]:
    extents: list[list[tuple[int, str]]] = [[] for _ in ranges.objects]
    if isinstance(access, CachedAccess):
        extents = access.tiers(ranges)
    columns = (column.tolist() for column in ranges)
    return [
        Piece(url=access.objects[place].url, start=start, stop=stop, extents=some)
        for place, start, stop, some in zip(*columns, extents, strict=True)
    ]
