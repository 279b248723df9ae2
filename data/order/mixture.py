"""Several orders interleaved by exact weights, in O(1): position -> source, and draw of it.

Positions are cut into mixing blocks. Up to the end of block k, source s has been drawn
floor(C_s x) - floor(C_(s-1) x) times, x the end's position and C the cumulative shares: that sums
to x exactly and stays within one sample of the exact share. Inside a block a keyed permutation
says which position draws which source. Where the weights change, the draws so far are carried on,
so that no sample of any source is left out or seen twice.
"""

from typing import final

import numpy as np
import numpy.typing as npt

from .order import Order, sorted_batches
from .permutation import Integers, Words, derive_key, permute
from .recipe import MixtureRecipe, Weights

_MIX = 5


@final
class _Segment:
    """Positions from `start` to `stop` (None: without end) under one set of weights."""

    def __init__(
        self, weights: Weights, stop: int | None, block: int, drawn: Integers, key: Words
    ) -> None:
        self.start = weights.start
        self.block = block
        self.key = key
        self._drawn = drawn
        self.shares = np.array(weights.shares, dtype=np.int64)
        self._cumulative = np.cumsum(self.shares)
        self.length = None if stop is None else stop - weights.start
        self._last = None if self.length is None else self._end(self.length)

    @property
    def drawn_after(self) -> Integers:
        """Draws of each source up to the segment's end."""
        assert self._last is not None
        drawn: Integers = self._drawn + self._last
        return drawn

    def draws(self, places: Integers) -> tuple[Integers, Integers]:
        """Source and number of the draw at each place, counted from the segment's start."""
        blocks, offsets = np.divmod(places, self.block)
        before, after = self._quota(blocks), self._quota(blocks + 1)
        sizes = (after - before).sum(axis=1)
        slots = np.empty_like(offsets)
        keys = derive_key(self.key, blocks)
        for size in np.unique(sizes).tolist():  # two at most: whole blocks, and a segment's last
            same = sizes == size
            slots[same] = permute(size, keys[same], offsets[same])
        bounds = np.cumsum(after - before, axis=1)
        sources = (slots[:, None] >= bounds).sum(axis=1)
        rows = np.arange(len(places))
        first = bounds[rows, sources] - (after - before)[rows, sources]
        return sources, self._drawn[sources] + before[rows, sources] + slots - first

    def place_of(self, source: int, draws: Integers) -> npt.NDArray[np.float64]:
        """About where, in the segment, `source` is drawn for the time draws[i]; inf if never."""
        share = self.shares[source] / self._cumulative[-1]
        ahead = np.maximum(draws - self._drawn[source], 0)
        if share == 0:
            return np.full(len(draws), np.inf)
        places: npt.NDArray[np.float64] = ahead / share
        if self.length is not None:
            places[places >= self.length] = np.inf
        return places

    def _quota(self, blocks: Integers) -> Integers:
        """Draws of each source up to the start of each block: (len(blocks), sources)."""
        ends = blocks * self.block
        if self.length is None or self._last is None:
            return self._shared(ends)
        quota = self._shared(np.minimum(ends, self.length))
        quota[ends >= self.length] = self._last
        return quota

    def _shared(self, ends: Integers) -> Integers:
        total = int(self._cumulative[-1])
        whole, rest = np.divmod(ends, total)
        up_to = whole[:, None] * self._cumulative + rest[:, None] * self._cumulative // total
        quota: Integers = np.diff(up_to, axis=1, prepend=0)
        return quota

    def _end(self, length: int) -> Integers:
        """Draws up to a segment's end, which may cut a block: what is left over is dealt one by
        one to the source that is farthest behind, so that none is ever taken back."""
        given: Integers = self._shared(np.array([length // self.block * self.block]))[0]
        total = int(self._cumulative[-1])
        for _ in range(length % self.block):
            given[np.argmax(self.shares * length - given * total)] += 1
        return given


@final
class Mixture:
    """The order of a mixture: ids are those of the sources put end to end."""

    def __init__(self, recipe: MixtureRecipe) -> None:
        self.recipe = recipe
        self.orders = [Order(one) for one in recipe.sources]
        sizes = [one.num_samples for one in recipe.sources]
        self.offsets = np.cumsum([0, *sizes[:-1]], dtype=np.int64)
        self._segments = _segments(recipe)
        self._starts = np.array([one.start for one in self._segments], dtype=np.int64)

    @property
    def pool_samples(self) -> int:
        """The longest stretch of positions in which a source shows one pool of its own."""
        shares = np.array([segment.shares / segment.shares.sum() for segment in self._segments])
        pools = np.array([order.pool_samples for order in self.orders])
        return int(np.max(pools / np.where(shares > 0, shares, np.inf)))

    def draws(self, positions: Integers) -> tuple[Integers, Integers]:
        """Source, and how many times it was drawn before, at any positions."""
        sources, draws = np.empty_like(positions), np.empty_like(positions)
        inside = np.searchsorted(self._starts, positions, side="right") - 1
        for number in np.unique(inside).tolist():
            here, segment = inside == number, self._segments[number]
            sources[here], draws[here] = segment.draws(positions[here] - segment.start)
        return sources, draws

    def samples(self, positions: Integers) -> tuple[Integers, Integers]:
        """Epochs (of each one's own source) and sample ids of any positions (int64, 1-D)."""
        sources, draws = self.draws(positions)
        epochs, ids = np.empty_like(positions), np.empty_like(positions)
        for number, order in enumerate(self.orders):
            here = sources == number
            epochs[here], own = order.samples(draws[here])
            ids[here] = own + self.offsets[number]
        return epochs, ids

    def arrange(self, start: int, size: int, batches: int = 1) -> Integers:
        """Positions [start, start + size) sorted by how far along its source's lanes each is, so
        that readers of slices read few lanes and all sources; see `Order.arrange`."""
        positions = np.arange(start, start + size * batches, dtype=np.int64)
        sources, draws = self.draws(positions)
        shares = np.empty(len(positions))
        for number, order in enumerate(self.orders):
            here = sources == number
            shares[here] = order.lane_share(draws[here])
        return sorted_batches(positions, shares, size)

    def batch(self, start: int, size: int) -> Integers:
        """Sample ids of the batch that begins at position `start`, in canonical arrangement."""
        return self.samples(self.arrange(start, size))[1]

    def next_use(self, ids: Integers, position: int) -> Integers:
        """From which position on each id's block is next wanted: about, for a source of a mixture,
        and as good as never (2^62) where its weight has become 0."""
        uses = np.full(len(ids), 2.0**62)
        sources = np.searchsorted(self.offsets, ids, side="right") - 1
        for number in np.unique(sources).tolist():
            here = sources == number
            drawn = self._drawn_before(number, position)
            own = self.orders[number].next_use(ids[here] - self.offsets[number], drawn)
            uses[here] = self._when(number, own, position)
        whole: Integers = np.maximum(uses, position).astype(np.int64)
        return whole

    def _drawn_before(self, source: int, position: int) -> int:
        number = int(np.searchsorted(self._starts, position, side="right")) - 1
        segment = self._segments[number]
        blocks = np.array([(position - segment.start) // segment.block])
        return int((segment._drawn + segment._quota(blocks)[0])[source])

    def _when(self, source: int, draws: Integers, position: int) -> npt.NDArray[np.float64]:
        found: npt.NDArray[np.float64] = np.full(len(draws), np.inf)
        for segment in self._segments:
            if segment.length is not None and segment.start + segment.length <= position:
                continue
            found = np.minimum(found, segment.start + segment.place_of(source, draws))
        found = np.minimum(found, 2.0**62)
        return found


def _segments(recipe: MixtureRecipe) -> list[_Segment]:
    stops = [*(one.start for one in recipe.weights[1:]), None]
    drawn = np.zeros(len(recipe.sources), dtype=np.int64)
    segments = []
    for number, (weights, stop) in enumerate(zip(recipe.weights, stops, strict=True)):
        key = derive_key(recipe.seed, _MIX, number)
        segments.append(_Segment(weights, stop, recipe.block, drawn, key))
        if stop is not None:
            drawn = segments[-1].drawn_after
    return segments
