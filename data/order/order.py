"""The order of samples as a pure function of one integer: blocks -> lanes -> windows.

Owns which sample stands at a position and how a batch is arranged; reads no data. Version 1 of
the algorithm is frozen: golden values in the tests, and a new version beside it if it must change.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from .permutation import Integers, Words, derive_key, extend_key, permute, unpermute
from .recipe import OrderRecipe

# Domain tags keep the keys of the four uses of one seed apart.
_RUN, _SLOT, _WINDOW, _REST = 1, 2, 3, 4

_Cipher = Callable[[int, Words, Integers], Integers]


def sorted_batches(positions: Integers, keys: npt.NDArray[np.generic], size: int) -> Integers:
    """Positions in batches of `size`, each sorted by its keys; equal keys keep their order."""
    places = np.argsort(keys.reshape(-1, size), axis=1, kind="stable")
    arranged: Integers = np.take_along_axis(positions.reshape(-1, size), places, axis=1)
    return arranged.reshape(-1)


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
        # What the keys of all epochs, lanes and windows begin with.
        self._slot_key = derive_key(recipe.seed, _SLOT)
        self._window_key = derive_key(recipe.seed, _WINDOW)

    @property
    def pool_samples(self) -> int:
        """Samples whose blocks are begun together and done together: a window of every lane."""
        return min(self._window_samples * self.recipe.lanes, self.recipe.num_samples)

    def samples(self, positions: Integers) -> tuple[Integers, Integers]:
        """Epochs and sample ids, in [0, N), of any non-negative positions (int64, 1-D)."""
        epochs, places = np.divmod(positions, self.recipe.num_samples)
        ids = np.empty_like(places)
        in_lanes = places < self._in_lanes
        if in_lanes.all():
            return epochs, self._from_lanes(epochs, places)
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

    def next_use(self, ids: Integers, position: int) -> Integers:
        """From which position on, `position` or later, each id's whole block is next wanted.

        A block's samples are spread over its window: while that lasts the answer is `position`.
        """
        count = self.recipe.num_samples
        epoch = position // count
        first, stop = self._span(epoch, ids)
        later, _ = self._span(epoch + 1, ids)
        return np.where(stop > position, np.maximum(first, position), later)

    def lane_share(self, positions: Integers) -> npt.NDArray[np.float64]:
        """How far along the row of lanes each position's lane stands, in [0, 1)."""
        lanes = positions % self.recipe.num_samples % self.recipe.lanes
        return lanes / self.recipe.lanes

    def _span(self, epoch: int, ids: Integers) -> tuple[Integers, Integers]:
        """The positions [first, stop) between which `epoch` shows the blocks of `ids`."""
        recipe, start = self.recipe, epoch * self.recipe.num_samples
        first = np.full_like(ids, start + self._in_lanes)
        stop = np.full_like(ids, start + recipe.num_samples)
        value = ids // recipe.block
        whole = value < self._blocks
        value[whole] = permute(self._blocks, self._run_key, value[whole])
        in_lanes = whole & (value < self._slots * recipe.lanes)
        slots, lanes = np.divmod(value[in_lanes], recipe.lanes)
        keys = extend_key(self._slot_key, epoch, lanes)
        windows = unpermute(self._slots, keys, slots) // recipe.window
        row = self._window_samples * recipe.lanes
        first[in_lanes] = start + windows * row
        stop[in_lanes] = start + np.minimum((windows + 1) * row, self._in_lanes)
        return first, stop

    def arrange(self, start: int, size: int, batches: int = 1) -> Integers:
        """Positions [start, start + size) sorted by lane: the batch's one canonical arrangement.

        Several batches that follow one another are each arranged by themselves.

        It depends on nothing but the two integers. Readers take contiguous slices, so each one
        reads few lanes, and a change of their number moves slices and changes no batch.
        """
        positions = np.arange(start, start + size * batches, dtype=np.int64)
        lanes = positions % self.recipe.num_samples % self.recipe.lanes
        return sorted_batches(positions, lanes, size)

    def batch(self, start: int, size: int) -> Integers:
        """Sample ids of the batch that begins at position `start`, in canonical arrangement."""
        return self.samples(self.arrange(start, size))[1]

    def _from_lanes(self, epochs: Integers, places: Integers) -> Integers:
        recipe = self.recipe
        times, lanes = np.divmod(places, recipe.lanes)
        windows, offsets = np.divmod(times, self._window_samples)
        offsets = self._shuffle(permute, epochs, lanes, windows, offsets)
        turns, within = np.divmod(offsets, recipe.block)
        keys = extend_key(self._slot_key, epochs, lanes)
        slots = permute(self._slots, keys, windows * recipe.window + turns)
        blocks = unpermute(self._blocks, self._run_key, slots * recipe.lanes + lanes)
        return blocks * recipe.block + within

    def _to_lanes(self, epoch: int, values: Integers, within: Integers) -> Integers:
        recipe = self.recipe
        slots, lanes = np.divmod(values, recipe.lanes)
        epochs = np.full_like(lanes, epoch)
        turns = unpermute(self._slots, extend_key(self._slot_key, epochs, lanes), slots)
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
        keys = extend_key(self._window_key, epochs, lanes, windows)
        shuffled = np.empty_like(offsets)
        is_whole = windows < whole
        if is_whole.all():  # but for the last part of an epoch
            return cipher(self._window_samples, keys, offsets)
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
