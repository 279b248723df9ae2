"""The order of samples as a pure function of one integer: blocks -> lanes -> windows.

Owns which sample stands at a position and how a batch is arranged; reads no data. Version 1 of
the algorithm is frozen: golden values in the tests, and a new version beside it if it must change.
"""

import dataclasses
import json
from collections.abc import Callable
from typing import Protocol

import numpy as np
import xxhash

from .permutation import Integers, Words, derive_key, permute, unpermute

ALGORITHM_VERSION = 1

# Domain tags keep the keys of the four uses of one seed apart.
_RUN, _SLOT, _WINDOW, _REST = 1, 2, 3, 4
# A lane holds whole blocks, so up to a block a lane is left over; with 64 blocks to a lane that
# is under 1/64 of the samples, which otherwise would all come late in every epoch.
_BLOCKS_PER_LANE = 64

_Cipher = Callable[[int, Words, Integers], Integers]


class Ordered(Protocol):
    """What an order is made for: a number of records with a digest of their content."""

    def __len__(self) -> int: ...

    @property
    def digest(self) -> str: ...


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class OrderRecipe:
    """Everything the order is a function of; `fit_recipe` chooses sizes that suit a source."""

    num_samples: int
    block: int
    """Consecutive samples that stay together, as the unit of reading."""
    lanes: int
    """Strands that are interleaved; a block keeps its lane in every epoch."""
    window: int
    """Blocks of a lane that are shuffled together."""
    seed: int
    source: str = ""
    """Digest of the records, so that a cursor never goes on over other data."""
    algorithm_version: int = ALGORITHM_VERSION

    def __post_init__(self) -> None:
        for name in ("num_samples", "block", "lanes", "window"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"order recipe {name}: found {getattr(self, name)}, needed 1 or more; "
                    "give a source that holds samples and sizes of at least 1"
                )
        if self.algorithm_version != ALGORITHM_VERSION:
            raise ValueError(
                f"order recipe algorithm_version: found {self.algorithm_version}, needed "
                f"{ALGORITHM_VERSION}; use a keepstep release that knows that version"
            )

    def digest(self) -> str:
        """xxh3-128 over all fields, as 32 hexadecimal digits."""
        fields = json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))
        return xxhash.xxh3_128_hexdigest(fields.encode())


def fit_recipe(
    source: Ordered, *, seed: int = 0, block: int = 64, lanes: int = 64, window: int = 8
) -> OrderRecipe:
    """The recipe for `source`, with lanes and block made smaller where samples are few.

    Each lane gets 64 blocks at least, so that a small corpus is mixed as well as a large one.
    """
    count = len(source)
    lanes = min(lanes, max(1, count // _BLOCKS_PER_LANE))
    block = min(block, max(1, count // (_BLOCKS_PER_LANE * lanes)))
    return OrderRecipe(
        num_samples=count, block=block, lanes=lanes, window=window, seed=seed, source=source.digest
    )


class Order:
    """Sample ids of any positions, in O(1) memory and time each.

    Position p lies in epoch p // N. Inside an epoch, positions go round the lanes; each lane walks
    its windows, each window its samples in a shuffled order. Blocks that do not fill a row of
    lanes, and the tail of N mod block, form one last region that is shuffled as a whole.
    """

    def __init__(self, recipe: OrderRecipe) -> None:
        self.recipe = recipe
        self._blocks = recipe.num_samples // recipe.block
        self._slots = self._blocks // recipe.lanes
        self._window_samples = recipe.window * recipe.block
        self._in_lanes = self._slots * recipe.lanes * recipe.block
        self._rest = recipe.num_samples - self._in_lanes
        self._run_key = derive_key(recipe.seed, _RUN)

    def samples(self, positions: Integers) -> tuple[Integers, Integers]:
        """Epochs and sample ids, in [0, N), of any non-negative positions (int64, 1-D)."""
        epochs, places = np.divmod(positions, self.recipe.num_samples)
        ids = np.empty_like(places)
        in_lanes = places < self._in_lanes
        ids[in_lanes] = self._from_lanes(epochs[in_lanes], places[in_lanes])
        ids[~in_lanes] = self._from_rest(epochs[~in_lanes], places[~in_lanes])
        return epochs, ids

    def position_of(self, epoch: int, ids: Integers) -> Integers:
        """Positions at which `epoch` shows the samples `ids`: the inverse of `samples`."""
        block = self.recipe.block
        places = np.empty_like(ids)
        whole = ids < self._blocks * block
        value = ids // block
        value[whole] = permute(self._blocks, self._run_key, value[whole])
        in_lanes = whole & (value < self._slots * self.recipe.lanes)
        places[in_lanes] = self._to_lanes(epoch, value[in_lanes], ids[in_lanes] % block)
        spare = np.where(whole, value * block + ids % block, ids)[~in_lanes] - self._in_lanes
        key = derive_key(self.recipe.seed, _REST, epoch)
        places[~in_lanes] = self._in_lanes + unpermute(self._rest, key, spare)
        return places + epoch * self.recipe.num_samples

    def arrange(self, start: int, size: int) -> Integers:
        """Positions [start, start + size) sorted by lane: the batch's one canonical arrangement.

        It depends on nothing but the two integers. Readers take contiguous slices, so each one
        reads few lanes, and a change of their number moves slices and changes no batch.
        """
        positions = np.arange(start, start + size, dtype=np.int64)
        lanes = positions % self.recipe.num_samples % self.recipe.lanes
        return positions[np.argsort(lanes, kind="stable")]

    def batch(self, start: int, size: int) -> Integers:
        """Sample ids of the batch that begins at position `start`, in canonical arrangement."""
        return self.samples(self.arrange(start, size))[1]

    def _from_lanes(self, epochs: Integers, places: Integers) -> Integers:
        recipe = self.recipe
        times, lanes = np.divmod(places, recipe.lanes)
        windows, offsets = np.divmod(times, self._window_samples)
        offsets = self._shuffle(permute, epochs, lanes, windows, offsets)
        turns, within = np.divmod(offsets, recipe.block)
        keys = derive_key(recipe.seed, _SLOT, epochs, lanes)
        slots = permute(self._slots, keys, windows * recipe.window + turns)
        blocks = unpermute(self._blocks, self._run_key, slots * recipe.lanes + lanes)
        return blocks * recipe.block + within

    def _to_lanes(self, epoch: int, values: Integers, within: Integers) -> Integers:
        recipe = self.recipe
        slots, lanes = np.divmod(values, recipe.lanes)
        epochs = np.full_like(lanes, epoch)
        turns = unpermute(self._slots, derive_key(recipe.seed, _SLOT, epochs, lanes), slots)
        windows, turns = np.divmod(turns, recipe.window)
        offsets = turns * recipe.block + within
        offsets = self._shuffle(unpermute, epochs, lanes, windows, offsets)
        return (windows * self._window_samples + offsets) * recipe.lanes + lanes

    def _shuffle(
        self,
        cipher: _Cipher,
        epochs: Integers,
        lanes: Integers,
        windows: Integers,
        offsets: Integers,
    ) -> Integers:
        """Permutes offsets inside their windows; the last window of a lane may be short."""
        whole, spare = divmod(self._slots, self.recipe.window)
        keys = derive_key(self.recipe.seed, _WINDOW, epochs, lanes, windows)
        shuffled = np.empty_like(offsets)
        is_whole = windows < whole
        for chosen, blocks in ((is_whole, self.recipe.window), (~is_whole, spare)):
            shuffled[chosen] = cipher(blocks * self.recipe.block, keys[chosen], offsets[chosen])
        return shuffled

    def _from_rest(self, epochs: Integers, places: Integers) -> Integers:
        block = self.recipe.block
        keys = derive_key(self.recipe.seed, _REST, epochs)
        spare = self._in_lanes + permute(self._rest, keys, places - self._in_lanes)
        values, within = np.divmod(spare, block)
        in_blocks = values < self._blocks
        ids = spare
        ids[in_blocks] = unpermute(self._blocks, self._run_key, values[in_blocks]) * block
        ids[in_blocks] += within[in_blocks]
        return ids
