"""The cache of a node: a RAM and a disk tier, open maps above them, leases beside them."""

import os
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import final

from .config import CacheConfig
from .counters import Counters
from .foresight import Foresight, NextUse
from .leases import Lease, Leases
from .name import ExtentName
from .place import open_tiers
from .tier import Evicted, Tier

_TOUCH_SECONDS = 60.0
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.0002, 0.02


@dataclass(slots=True)
class _Map:
    content: memoryview
    tier: Tier
    touched: float


@final
class Cache:
    """Extents by name, for all threads of all processes of a node. Made by `open`.

    Reads are right whatever happens: an entry is published in one step, verified by its digest
    when a process maps it first, and readable as long as a view of it lives, evicted or not. The
    bytes of all published entries never exceed a tier's budget, nor do those of unfinished ones by
    more than what is evicted unfinished (an extent each, seldom). What is evicted while it is
    mapped stays allocated until its views and open maps are gone, which is a second or so.

    Nothing here raises for what disks do: without room or permission extents are not kept.
    """

    def __init__(self, config: CacheConfig) -> None:
        self._open_maps = config.open_maps
        self._foresight = Foresight()
        self._tiers: dict[str, Tier] = {}
        self._maps: OrderedDict[tuple[str, int], _Map] = OrderedDict()
        self._leases = Leases(None)
        self.misses = 0
        """Calls of `get` that found nothing."""
        self.uncached = 0
        """Calls of `put` after which no tier had the extent."""

    @classmethod
    def open(cls, config: CacheConfig) -> "Cache":
        """Makes or joins the cache; what killed processes left in its folder is deleted.

        Raises:
            DataError: the folder holds other things than a cache, or is not safe to use.
        """
        cache = cls(config)
        cache._tiers = open_tiers(config, cache._foresight, cache._gone)
        for tier in cache._tiers.values():
            tier.start()
        cache._share_leases()
        _after_fork(cache._restart)
        return cache

    def close(self) -> None:
        """Lets go of maps, locks and leases; safe twice. Views in use stay readable.

        No other thread may be in a call.
        """
        self._leases = Leases(None)
        for tier in self._tiers.values():
            tier.close()
        self._tiers = {}
        self._maps.clear()

    def know(self, objects: Iterable[str], next_use: NextUse) -> None:
        """Says who foretells the next uses of these objects' extents, from now on."""
        self._foresight.know(objects, next_use)

    def forget(self, objects: Iterable[str]) -> None:
        """Takes `know` back: these objects' extents go when they were idle for long."""
        self._foresight.forget(objects)

    def get(self, object: str, number: int) -> memoryview | None:
        """The extent's bytes, read-only and mapped; None where it is not here.

        About a microsecond where this process has it open; else it is mapped, and read once
        through where this process has not verified it yet.
        """
        name = (object, number)
        found = self._maps.get(name)
        if found is None:
            view = self._map(ExtentName(object, number))
            self.misses += view is None
            return view
        counters = found.tier.counters
        counters.hits += 1
        counters.hit_bytes += len(found.content)
        try:
            self._maps.move_to_end(name)
        except KeyError:  # another thread evicted it since
            return found.content[:]
        now = time.monotonic()
        if now - found.touched > _TOUCH_SECONDS:
            found.touched = now
            found.tier.touch(ExtentName(object, number))
        return found.content[:]

    def tier(self, object: str, number: int) -> str | None:
        """The first tier that has the extent, "ram" or "disk"; None where none does. Counts as no
        use of it, and verifies nothing."""
        name = ExtentName(object, number)
        return next((word for word, tier in self._tiers.items() if tier.has(name)), None)

    def put(self, object: str, number: int, content: bytes | memoryview, digest: str = "") -> bool:
        """Keeps an extent; False where it is not admitted or cannot be written. Blocks meanwhile.

        Args:
            content: bytes of any length; a view is C-contiguous.
            digest: xxh3-128 of the content, 32 hexadecimal digits; computed where it is not given.
                A wrong one makes the entry corrupt.
        """
        name = ExtentName(object, number)
        view = memoryview(content).cast("B")
        tiers = list(self._tiers.values())
        for place, tier in enumerate(tiers):
            demoted: list[Evicted] | None = [] if tiers[place + 1 :] else None
            kept = tier.keep(name, view, digest, demoted)
            for one in demoted or []:
                tiers[place + 1].keep(one.name, one.entry.content, one.entry.digest)
            if kept:
                return True
        self.uncached += 1
        return False

    def lease(self, object: str, number: int) -> Lease | None:
        """The right to fetch an extent; None where another has it, or it was published meanwhile.

        Never blocks. Whoever gets None calls `wait`. Threads and processes are alike.
        """
        name = ExtentName(object, number)
        lease = self._leases.take(name)
        if lease is not None and any(tier.has(name) for tier in self._tiers.values()):
            lease.release()
            return None
        return lease

    def wait(self, object: str, number: int, deadline: float) -> memoryview | None:
        """The extent, once it is published; None when its lease lapsed or the deadline passed.

        Blocks. A lease lapses without a publication when its holder died, or the extent was not
        admitted: ask for the lease again.

        Args:
            deadline: time.monotonic seconds.
        """
        name = ExtentName(object, number)
        pause = _SHORTEST_PAUSE
        while True:
            is_leased = self._leases.is_taken(name)  # first: a publication comes before the end
            view = self._map(name)
            left = deadline - time.monotonic()
            if view is not None or not is_leased or left <= 0:
                return view
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    def counters(self) -> dict[str, Counters]:
        """What happened since `open` in this process, by tier: "ram", "disk"."""
        return {word: tier.counters for word, tier in self._tiers.items()}

    def _map(self, name: ExtentName) -> memoryview | None:
        for tier in self._tiers.values():
            try:
                entry = tier.find(name)
            except OSError:  # no descriptor is left: the maps that are open hold one each
                self._trim(len(self._maps) // 2)
                continue
            if entry is not None:
                if abs(time.time() - entry.touched) > _TOUCH_SECONDS:
                    tier.touch(name)
                tier.follow()
                tier.counters.hits += 1
                tier.counters.hit_bytes += len(entry.content)
                self._maps[name] = _Map(entry.content, tier, time.monotonic())
                self._trim(self._open_maps)
                return entry.content[:]
            tier.follow()
        return None

    def _trim(self, count: int) -> None:
        while len(self._maps) > count:
            try:
                self._maps.popitem(last=False)
            except KeyError:  # another thread was faster
                return

    def _gone(self, name: ExtentName) -> None:
        self._maps.pop(name, None)

    def _share_leases(self) -> None:
        shared = [tier.account.ledger for tier in self._tiers.values() if tier.is_writable]
        self._leases = Leases(shared[-1] if shared else None)

    def _restart(self) -> None:
        """Makes a forked child's copy its own.

        The child shares its parent's descriptors, and would keep its leases past its death.
        """
        for tier in self._tiers.values():
            tier.restart()
        self._share_leases()


def _after_fork(restart: Callable[[], None]) -> None:
    """Has a method called in forked children as long as its object lives."""
    reference = weakref.WeakMethod(restart)

    def call() -> None:
        alive = reference()
        if alive is not None:
            alive()

    os.register_at_fork(after_in_child=call)
