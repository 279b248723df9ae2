"""Extents of the cache that were used lately, the shortest way to their bytes."""

import time
from collections.abc import Callable
from typing import final

from ..cache import Cache, ExtentName

_FEWEST = 64
# The cache marks what is asked for as used, once a minute at most: it must be asked now and then.
_ASK_AGAIN_SECONDS = 60.0


@final
class OpenViews:
    """The newest ones, as `views`; a view stays readable when its entry is evicted, so that it need
    not be known."""

    def __init__(self, cache: Cache, name: Callable[[int], ExtentName], kept: int) -> None:
        self._cache = cache
        self._kept = max(_FEWEST, kept)
        self._name = name
        self.views: dict[int, memoryview] = {}
        self._until = 0.0

    def get(self, extent: int) -> memoryview | None:
        """The extent's bytes; None where the cache has none of it."""
        view = self.views.get(extent)
        if view is not None:
            return view
        found = self._cache.get(*self._name(extent))
        if found is None:
            return None
        now = time.monotonic()
        if now > self._until or len(self.views) >= self._kept:
            # All at once: in a moment those in use are back, and nothing has to be kept in order.
            self.views = {}
            self._until = now + _ASK_AGAIN_SECONDS
        self.views[extent] = found
        return found
