"""Objects of a store, extent by extent: from the cache of this node, or fetched once a node.

range -> extents -> mapped in the cache | lease -> fetch -> unpack -> check -> put -> view
"""

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import final

import numpy as np
import numpy.typing as npt

from ..cache import Cache, ExtentName, Lease, object_name
from ..dataset import Dataset
from ..fetch import Fetcher
from ..store import StoredObject
from .access import Bytes, NextUse, Numbers, Ranges
from .digests import Check, ExtentDigests
from .extents import Cut, ExtentMap
from .gather import gather
from .held import Held
from .opened import OpenViews
from .packing import unpack
from .putter import Arrival, Putter
from .tally import cache_tally, fetch_tally
from .turns import Turns

_PROBES = 3
# Some rounds of requests: what is asked for later than these can as well be asked for later.
_MOST_COMING = 256


@dataclass(slots=True)
class _Coming:
    """An extent on its way; `fetch` is None while another process fetches it."""

    arrived: "Future[None]" = field(default_factory=Future)
    fetch: "Future[bytes | memoryview] | None" = None


@final
class CachedAccess:
    """Reads from a cache that all processes of the node share, and fetches what is not in it.

    Args:
        ahead_bytes: how far ahead of its reading anything may be fetched, in bytes of samples.
        held_bytes: of extents that the cache did not admit, kept in this process's memory.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        fetcher: Fetcher,
        cache: Cache,
        cut: Cut,
        ahead_bytes: int = 256 * 2**20,
        held_bytes: int = 256 * 2**20,
    ) -> None:
        self.objects = dataset.objects
        self.map = ExtentMap(dataset, cut)
        self.fetcher = fetcher
        self.cache = cache
        self._names = [
            object_name(obj, cut.size, lead=self.map.lead(place), overlap=cut.overlap)
            for place, obj in enumerate(dataset.objects)
        ]
        self._places = {name: place for place, name in enumerate(self._names)}
        self._digests = ExtentDigests.of(dataset, cut)
        self.ahead_bytes = ahead_bytes
        self._held = Held(held_bytes)
        self._open = OpenViews(cache, self._name, held_bytes // cut.size)
        self._lock = threading.Lock()
        self._coming: dict[int, _Coming] = {}
        self._turns = Turns()
        self._readers = 0
        self._putter = Putter(lambda: self._readers > 0)
        self._waited = {"network": 0.0, "lock": 0.0}
        self._fetched_bytes = 0
        self._read_bytes = 0

    def read(self, ranges: Ranges) -> list[memoryview]:
        first, last, offsets = self.map.locate(ranges)
        views = self._views(first, last)
        sizes = ranges.stops - ranges.starts
        self._read_bytes += int(sizes.sum())
        rows = zip(first.tolist(), last.tolist(), offsets.tolist(), sizes.tolist(), strict=True)
        return [self._piece(views, *row) for row in rows]

    def gather(self, ranges: Ranges, width: int) -> Bytes:
        first, last, offsets = self.map.locate(ranges)
        sizes = ranges.stops - ranges.starts
        self._read_bytes += int(sizes.sum())
        if (first == last).all() and (sizes == width).all():
            extents, which = np.unique(first, return_inverse=True)
            views = self._views(extents, extents)
            return gather([views[extent] for extent in extents.tolist()], which, offsets, width)
        views = self._views(first, last)
        rows = np.zeros((len(sizes), width), dtype=np.uint8)
        columns = (first.tolist(), last.tolist(), offsets.tolist(), sizes.tolist())
        for row, extent, end, offset, size in zip(rows, *columns, strict=True):
            row[:size] = np.frombuffer(self._piece(views, extent, end, offset, size), np.uint8)
        return rows

    def want(self, ranges: Ranges, due: npt.NDArray[np.float64]) -> None:
        first, last, _ = self.map.locate(ranges)
        extents, places = np.unique(first, return_index=True)
        times = dict(zip(extents.tolist(), due[places].tolist(), strict=True))
        for place in np.flatnonzero(last > first).tolist():
            for extent in range(int(first[place]) + 1, int(last[place]) + 1):
                times[extent] = min(times.get(extent, np.inf), float(due[place]))
        for extent, when in sorted(times.items(), key=lambda item: item[1]):
            # What is on its way was asked for at an earlier time than this.
            if extent not in self._coming and self._find(extent) is None:
                self._begin(extent, when)

    def follow(self, next_use: NextUse) -> None:
        """Tells the cache what is wanted when; an extent is wanted when any of its units is."""

        def uses(names: Sequence[ExtentName]) -> npt.NDArray[np.float64]:
            extents = [self.map.first(self._places[name.object]) + name.number for name in names]
            units = self.map.units(np.array(extents, dtype=np.int64), _PROBES)
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
        is_held = extent in self._held or extent in self._putter.contents
        held = "memory" if is_held else None
        return name.number, held or self.cache.tier(*name) or "store"

    @property
    def is_full(self) -> bool:
        return len(self._coming) >= _MOST_COMING

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
        """Ends its threads, once all that came in is kept; fetcher and cache are the maker's."""
        self._turns.close()
        self._putter.close()
        self.cache.forget(self._names)
        self._held.clear()

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
        return views

    def _piece(
        self, views: Mapping[int, memoryview], extent: int, end: int, offset: int, size: int
    ) -> memoryview:
        """Bytes of one extent as they lie, or of several in a row, copied."""
        if extent == end:
            return views[extent][offset : offset + size]
        begins = self.map.places(np.arange(extent, end + 1))[1]
        # Each holds some bytes of the next one, which are taken from there.
        own = zip(range(extent, end), np.diff(begins).tolist(), strict=True)
        parts = [views[one][:length] for one, length in own]
        parts[0] = parts[0][offset:]
        parts.append(views[end][: size - sum(map(len, parts))])
        return memoryview(b"".join(parts))

    def _wait(self, missing: Iterable[int], views: dict[int, memoryview]) -> None:
        now = time.monotonic()
        coming = [(extent, self._begin(extent, now)) for extent in missing]
        with self._lock:
            self._readers += 1
        try:
            for extent, future in coming:
                begun = time.perf_counter()
                cause = "lock" if extent in self._turns else "network"
                views[extent] = self._awaited(extent, future)
                self._waited[cause] += time.perf_counter() - begun
        finally:
            with self._lock:
                self._readers -= 1

    def _awaited(self, extent: int, future: "Future[None]") -> memoryview:
        future.result()
        view = self._find(extent)
        while view is None:  # evicted again between its arrival and now
            self._begin(extent, time.monotonic()).result()
            view = self._find(extent)
        return view

    def _find(self, extent: int) -> memoryview | None:
        waiting = self._putter.contents.get(extent)
        if waiting is not None:
            return waiting
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
        """Takes what came in; in the thread that fetched it."""
        try:
            content = fetch.result()
            self._fetched_bytes += len(content)
            check.learn()
            raw = memoryview(unpack(memoryview(content), obj) if obj.packing else content)
        except BaseException as error:
            lease.release()
            self._settle(extent, error)
            return
        digest = "" if obj.packing else check.quick.hex()
        # Readers go on at once; the cache takes it meanwhile, and others of the node then.
        put = partial(self._put, extent, raw, digest, lease)
        self._putter.add(Arrival(extent, raw, put, time.monotonic()))
        self._settle(extent)
        self._putter.wait_for_room()

    def _put(self, extent: int, raw: memoryview, digest: str, lease: Lease) -> None:
        """Keeps an extent: in the cache, or here where that has no room for it."""
        try:
            if self.cache.put(*self._name(extent), raw, digest):
                self._held.drop(extent)
            else:
                self._held.put(extent, raw)
        finally:
            lease.release()

    def _settle(self, extent: int, error: BaseException | None = None) -> None:
        with self._lock:
            coming = self._coming.pop(extent, None)
        if coming is None:
            return
        if error is None:
            coming.arrived.set_result(None)
        else:
            coming.arrived.set_exception(error)
