"""Objects of a store, extent by extent: from the cache of this node, or fetched once a node.

range -> extents -> mapped in the cache | lease -> fetch -> unpack -> check -> put -> view
"""

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, final

import numpy as np
import numpy.typing as npt

from ..cache import Cache, ExtentName, Lease, object_name
from ..dataset import Dataset
from ..fetch import Fetcher
from ..store import StoredObject
from .access import NextUse, Numbers, Ranges
from .digests import Check, ExtentDigests
from .extents import ExtentMap
from .held import Held
from .opened import OpenViews
from .packing import unpack
from .tally import cache_tally, fetch_tally
from .turns import Turns

_PROBES = 3


@dataclass(slots=True)
class _Coming:
    """An extent on its way; `fetch` is None while another process fetches it."""

    arrived: "Future[None]" = field(default_factory=Future)
    fetch: "Future[bytes | memoryview] | None" = None


@final
class CachedAccess:
    """Reads from a cache that all processes of the node share, and fetches what is not in it.

    Args:
        ahead_bytes: fetched or on its way, and not read yet: beyond this `is_full`.
        held_bytes: of extents that the cache did not admit, kept in this process's memory.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        fetcher: Fetcher,
        cache: Cache,
        extent_bytes: int,
        ahead_bytes: int = 256 * 2**20,
        held_bytes: int = 256 * 2**20,
    ) -> None:
        self.objects = dataset.objects
        self.map = ExtentMap(dataset.objects, extent_bytes)
        self._units = np.cumsum(np.append(0, dataset.counts), dtype=np.int64)
        self.fetcher = fetcher
        self.cache = cache
        self._names = [object_name(obj, extent_bytes) for obj in dataset.objects]
        self._places = {name: place for place, name in enumerate(self._names)}
        self._digests = ExtentDigests.of(dataset, extent_bytes)
        self._ahead_extents = max(1, ahead_bytes // extent_bytes)
        self._held = Held(held_bytes)
        self._open = OpenViews(cache, self._name, held_bytes // extent_bytes)
        self._lock = threading.Lock()
        self._coming: dict[int, _Coming] = {}
        self._unread: set[int] = set()
        self._turns = Turns()
        self._waited = {"network": 0.0, "lock": 0.0}
        self._fetched_bytes = 0
        self._read_bytes = 0

    def read(self, ranges: Ranges) -> list[memoryview]:
        first, last, offsets = self.map.locate(ranges)
        views = self._views(first, last)
        sizes = ranges.stops - ranges.starts
        self._read_bytes += int(sizes.sum())
        rows = zip(first.tolist(), last.tolist(), offsets.tolist(), sizes.tolist(), strict=True)
        return [_piece(views, *row) for row in rows]

    def fill(self, rows: npt.NDArray[Any], ranges: Ranges) -> None:
        first, last, offsets = self.map.locate(ranges)
        sizes = ranges.stops - ranges.starts
        self._read_bytes += int(sizes.sum())
        extents, ends = first.tolist(), last.tolist()
        views = self._all_open(extents) if extents == ends else None
        if views is None:
            views = self._views(first, last)
        width = rows.shape[1] * rows.itemsize
        # Slices of memoryviews are copied in half the time that slices of arrays take.
        table, at = rows.reshape(-1).view(np.uint8).data, 0
        columns = (extents, ends, offsets.tolist(), sizes.tolist())
        for extent, end, offset, size in zip(*columns, strict=True):
            if extent == end:
                table[at : at + size] = views[extent][offset : offset + size]
            else:
                table[at : at + size] = _piece(views, extent, end, offset, size)
            at += width

    def _all_open(self, extents: list[int]) -> Mapping[int, memoryview] | None:
        """The views of extents that were all used lately, without looking for any; or None."""
        views = self._open.views
        if not views.keys() >= set(extents):
            return None
        if self._unread:
            self._unread.difference_update(extents)
        return views

    def want(self, ranges: Ranges, due: npt.NDArray[np.float64]) -> None:
        first, last, _ = self.map.locate(ranges)
        extents, places = np.unique(first, return_index=True)
        times = dict(zip(extents.tolist(), due[places].tolist(), strict=True))
        for place in np.flatnonzero(last > first).tolist():
            for extent in range(int(first[place]) + 1, int(last[place]) + 1):
                times[extent] = min(times.get(extent, np.inf), float(due[place]))
        for extent, when in sorted(times.items(), key=lambda item: item[1]):
            if extent not in self._unread and self._find(extent) is None:
                self._unread.add(extent)
                self._begin(extent, when)

    def follow(self, next_use: NextUse) -> None:
        """Tells the cache what is wanted when; an extent is wanted when any of its units is."""

        def uses(names: Sequence[ExtentName]) -> npt.NDArray[np.float64]:
            extents = [self.map.first(self._places[name.object]) + name.number for name in names]
            units = self._units_of(np.array(extents, dtype=np.int64))
            found = next_use(units.reshape(-1)).reshape(units.shape).min(axis=0)
            return np.where(found < 2**62, found.astype(np.float64), np.inf)

        self.cache.know(self._names, uses)

    def tiers(self, ranges: Ranges) -> list[list[tuple[int, str]]]:
        """Of each range its extents, by their numbers inside its object, and where each is now:
        "ram" or "disk" of the cache, "memory" of this process, else "store"."""
        first, last, _ = self.map.locate(ranges)
        return [
            [self._tier(extent) for extent in range(start, stop + 1)]
            for start, stop in zip(first.tolist(), last.tolist(), strict=True)
        ]

    def _tier(self, extent: int) -> tuple[int, str]:
        name = self._name(extent)
        held = "memory" if extent in self._held else None
        return name.number, held or self.cache.tier(*name) or "store"

    @property
    def is_full(self) -> bool:
        return len(self._unread) >= self._ahead_extents

    @property
    def waited(self) -> Mapping[str, float]:
        return self._waited

    @property
    def outage(self) -> str | None:
        found = self.fetcher.outage
        if found is None:
            return None
        return f"for {time.monotonic() - found.since:.0f} s: {found.why}"

    @property
    def counts(self) -> Mapping[str, float]:
        """What was read through this access, and what its fetcher and its cache counted for all
        accesses that share them; names as in `tally`."""
        return {**self.own_counts, **fetch_tally(self.fetcher), **cache_tally(self.cache)}

    @property
    def own_counts(self) -> Mapping[str, float]:
        """Of this access alone: bytes fetched (as stored), read, and held in memory now."""
        found = {"fetched_bytes": self._fetched_bytes, "read_bytes": self._read_bytes}
        return {**found, "held_bytes": self._held.bytes}

    def close(self) -> None:
        """Ends the thread that waits for other processes; fetcher and cache are the maker's."""
        self._turns.close()
        self.cache.forget(self._names)
        self._held.clear()

    def _units_of(self, extents: Numbers) -> Numbers:
        """(probes, n): units at the beginning, inside and at the end of each extent."""
        objects, starts, stops = self.map.places(extents)
        counts = self._units[objects + 1] - self._units[objects]
        shares = np.linspace(starts, np.maximum(stops - 1, starts), _PROBES)
        within = shares * counts // np.maximum(1, self.map.raw[objects])
        units: Numbers = self._units[objects] + np.minimum(within.astype(np.int64), counts - 1)
        return np.maximum(units, 0)

    def _views(self, first: Numbers, last: Numbers) -> dict[int, memoryview]:
        """The bytes of every extent from `first` to `last`. Blocks."""
        extents = set(first.tolist())
        for place in np.flatnonzero(last > first).tolist():
            extents.update(range(int(first[place]), int(last[place]) + 1))
        views, missing = {}, []
        for extent in extents:
            view = self._find(extent)
            if view is None:
                missing.append(extent)
            else:
                views[extent] = view
        if missing:
            self._wait(missing, views)
        self._unread -= extents
        return views

    def _wait(self, missing: Iterable[int], views: dict[int, memoryview]) -> None:
        now = time.monotonic()
        coming = [(extent, self._begin(extent, now)) for extent in missing]
        for extent, future in coming:
            begun = time.perf_counter()
            cause = "lock" if extent in self._turns else "network"
            future.result()
            view = self._find(extent)
            while view is None:  # evicted again between its arrival and now
                self._begin(extent, now).result()
                view = self._find(extent)
            views[extent] = view
            self._waited[cause] += time.perf_counter() - begun

    def _find(self, extent: int) -> memoryview | None:
        if extent in self._held and (held := self._held.get(extent)) is not None:
            return held
        return self._open.get(extent)

    def _name(self, extent: int) -> ExtentName:
        place = self.map.place(extent)
        return ExtentName(self._names[place], extent - self.map.first(place))

    def _begin(self, extent: int, due: float) -> "Future[None]":
        """Has the extent fetched, by this process or another, unless it is on its way already."""
        with self._lock:
            coming = self._coming.get(extent)
            is_new = coming is None
            coming = coming or self._coming.setdefault(extent, _Coming())
        if is_new:
            self._ask(extent, due)
        elif coming.fetch is not None:
            self.fetcher.hurry(coming.fetch, due)
        return coming.arrived

    def _ask(self, extent: int, due: float) -> None:
        """Fetches the extent where no other process does; else asks again in a while."""
        name = self._name(extent)
        try:
            lease = self.cache.lease(*name)
            if lease is not None:
                self._fetch(extent, lease, due)
            elif self._find(extent) is not None:
                self._settle(extent)
            else:
                self._turns.add(extent, partial(self._ask, extent, due))
        except Exception as error:
            self._settle(extent, error)

    def _fetch(self, extent: int, lease: Lease, due: float) -> None:
        places, starts, stops = self.map.places(np.array([extent]))
        obj = self.objects[int(places[0])]
        start, stop = (0, obj.size) if obj.packing else (int(starts[0]), int(stops[0]))
        check = self._digests.check(extent)
        try:
            fetch = self.fetcher.submit(obj, start, stop, due, check=check)
        except BaseException:
            lease.release()
            raise
        coming = self._coming.get(extent)
        if coming is not None:
            coming.fetch = fetch
        fetch.add_done_callback(partial(self._arrived, extent, obj, lease, check))

    def _arrived(
        self,
        extent: int,
        obj: StoredObject,
        lease: Lease,
        check: Check,
        fetch: "Future[bytes | memoryview]",
    ) -> None:
        """Keeps what came in; in the thread that fetched it."""
        try:
            content = fetch.result()
            self._fetched_bytes += len(content)
            check.learn()
            raw = memoryview(unpack(memoryview(content), obj) if obj.packing else content)
            # Readers go on at once; the cache takes it meanwhile, and others of the node then.
            self._held.put(extent, raw)
            self._settle(extent)
            digest = "" if obj.packing else check.digest.hex()
            if self.cache.put(*self._name(extent), raw, digest):
                self._held.drop(extent)
        except BaseException as error:
            lease.release()
            self._settle(extent, error)
        else:
            lease.release()

    def _settle(self, extent: int, error: BaseException | None = None) -> None:
        with self._lock:
            coming = self._coming.pop(extent, None)
        if coming is None:
            return
        if error is None:
            coming.arrived.set_result(None)
        else:
            self._unread.discard(extent)
            coming.arrived.set_exception(error)


def _piece(
    views: Mapping[int, memoryview], extent: int, end: int, offset: int, size: int
) -> memoryview:
    """Bytes of one extent as they lie, or of several in a row, copied."""
    if extent == end:
        return views[extent][offset : offset + size]
    parts, left = [views[extent][offset:]], size - (len(views[extent]) - offset)
    for one in range(extent + 1, end + 1):
        parts.append(views[one][:left])
        left -= len(parts[-1])
    return memoryview(b"".join(parts))
