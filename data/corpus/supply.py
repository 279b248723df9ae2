"""The stores, fetchers and the cache that all datasets of a process share, opened when needed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import final

from ..access import Access, CachedAccess, Cut, LocalAccess
from ..cache import Cache
from ..config import DataConfig
from ..dataset import Dataset
from ..fetch import Fetcher
from ..folder import data_folder
from ..store import LocalStore, Patient, Store, open_store


@final
class Supply:
    """Accesses to datasets wherever they lie; local files are mapped, all else goes through the
    node's cache.

    Everything is opened at its first use, in the process that uses it; `close` ends it all.

    Args:
        extents: the folder of the cache, where it is not `folder`'s own.
    """

    def __init__(
        self, config: DataConfig, report: Callable[[str], None], *, extents: Path | None = None
    ) -> None:
        self._extents = extents
        self._config = config
        self._report = report
        self._stores: dict[str, Patient] = {}
        self._fetchers: dict[str, Fetcher] = {}
        self._cache: Cache | None = None
        self._closers: list[Callable[[], None]] = []

    @property
    def folder(self) -> Path:
        """Where this user's prepared data, locks, packings and extents are kept."""
        return data_folder(self._config.cache.folder)

    def store(self, url: str) -> Patient:
        """The store that holds `url`, for what is read once: it asks again where that may help."""
        scheme = _scheme(url)
        if scheme not in self._stores:
            self._stores[scheme] = store = Patient(
                open_store(url, self._config.store), report=self._report
            )
            self._closers.append(store.close)
        return self._stores[scheme]

    def content(self, url: str) -> bytes:
        """The bytes of a small object.

        Raises:
            MissingError: there is none.
        """
        return self.store(url).content(url)

    def access(self, dataset: Dataset) -> Access:
        """The bytes of a dataset's objects."""
        store = self.store(dataset.url).store
        if isinstance(store, LocalStore):
            local = LocalAccess(dataset.objects)
            self._closers.append(local.close)
            return local
        config = self._config
        cut = Cut.of(dataset, sequence_length=config.sequence_length, size=config.extent_bytes)
        cache = self.cache()  # before the fetcher, whose threads put into it until they end
        access = CachedAccess(
            dataset,
            fetcher=self._fetcher(dataset.url, store),
            cache=cache,
            cut=cut,
            ahead_bytes=self._ahead_bytes(),
            held_bytes=config.held_bytes,
        )
        self._closers.append(access.close)
        return access

    def cache(self) -> Cache:
        """The node's cache of extents."""
        if self._cache is None:
            folder = str(self._extents or self.folder / "extents")
            self._cache = Cache.open(replace(self._config.cache, folder=folder))
            self._closers.append(self._cache.close)
        return self._cache

    def close(self) -> None:
        """Ends threads and connections, the newest first; safe twice."""
        while self._closers:
            self._closers.pop()()
        self._stores, self._fetchers, self._cache = {}, {}, None

    def _ahead_bytes(self) -> int:
        """What is asked for, but no more than an eighth of what can be kept: more would push out
        what is needed sooner."""
        config = self._config
        room = config.cache.disk_bytes + config.cache.ram_bytes + config.held_bytes
        return max(1, min(config.ahead_bytes, room // 8))

    def _fetcher(self, url: str, store: Store) -> Fetcher:
        scheme = _scheme(url)
        if scheme not in self._fetchers:
            fetcher = Fetcher(store, self._config.fetch)
            fetcher.open()
            self._fetchers[scheme] = fetcher
            self._closers.append(fetcher.close)
        return self._fetchers[scheme]


def _scheme(url: str) -> str:
    return url.partition("://")[0] if "://" in url else "file"
