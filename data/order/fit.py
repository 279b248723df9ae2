"""Sizes of blocks, lanes and windows that suit a source."""

from typing import Protocol

from ..access import extent_bytes, samples_of
from .recipe import OrderRecipe

# A lane holds whole blocks, so up to a block a lane is left over; with 64 blocks to a lane that
# is under 1/64 of the samples, which otherwise would all come late in every epoch.
_BLOCKS_PER_LANE = 64
# Below this all data is kept at hand anyway: small blocks then mix better and cost nothing.
_SMALL_BYTES = 64 * 2**20
# The samples of one window, over all lanes, are wanted at about the same time: with 16 windows
# to an epoch they are a sixteenth of the data, and the rest of a cache is left for reuse.
_WINDOWS_PER_EPOCH = 16


class Ordered(Protocol):
    """What an order is made for: a number of records with a digest of their content."""

    def __len__(self) -> int: ...

    @property
    def digest(self) -> str: ...


def fit_recipe(
    source: Ordered,
    *,
    seed: int = 0,
    block: int = 0,
    lanes: int = 64,
    window: int = 8,
    sample_bytes: int = 0,
    stored_bytes: int = 0,
) -> OrderRecipe:
    """The recipe for `source`, with lanes, block and window made smaller where samples are few.

    It depends on the samples and not on where they lie: the same data has the same order in a
    folder and in a bucket.

    Args:
        block: samples of a block; 0 makes a block as large as an extent, the unit of fetching, or
            gives each lane 64 of them where there is little data.
        sample_bytes: of a sample in its store, on average; 0 where it lies in memory.
        stored_bytes: of all objects of its store, of which `source` may be a part; 0: as many as
            the samples have. What is read as extents of one size is ordered in blocks of it.
    """
    count = len(source)
    lanes = min(lanes, max(1, count // _BLOCKS_PER_LANE))
    total = count * sample_bytes
    if block == 0 and total > _SMALL_BYTES:
        block = samples_of(extent_bytes(stored_bytes or total), sample_bytes)
        slots = count // block // lanes
        window = max(1, min(window, slots // _WINDOWS_PER_EPOCH))
    else:
        block = min(block or 64, max(1, count // (_BLOCKS_PER_LANE * lanes)))
    return OrderRecipe(
        num_samples=count, block=block, lanes=lanes, window=window, seed=seed, source=source.digest
    )
