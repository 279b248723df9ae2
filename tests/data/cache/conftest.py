"""Caches with tiny budgets in folders of the test's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.extents import COST, Configure, OpenCache

from keepstep.data.cache import Cache, CacheConfig


@pytest.fixture
def configure(tmp_path: Path) -> Configure:
    """A CacheConfig of `entries` and `ram_entries` extents, in the test's own folders."""

    def make(entries: int = 8, ram_entries: int = 0, **changes: object) -> CacheConfig:
        (tmp_path / "ram").mkdir(exist_ok=True)
        settings: dict[str, object] = {
            "folder": str(tmp_path / "disk"),
            "ram_folder": str(tmp_path / "ram"),
            "disk_bytes": entries * COST,
            "ram_bytes": ram_entries * COST,
            "free_bytes": 0,
            "ram_free_bytes": 0,
        }
        return CacheConfig(**{**settings, **changes})  # type: ignore[arg-type]

    return make


@pytest.fixture
def open_cache(configure: Configure) -> Iterator[OpenCache]:
    """Opens caches that are closed at the end."""
    opened: list[Cache] = []

    def open_one(*sizes: int, **changes: object) -> Cache:
        opened.append(Cache.open(configure(*sizes, **changes)))
        return opened[-1]

    yield open_one
    for cache in opened:
        cache.close()
