"""Extents for tests of the cache: bytes that tell where they belong, and what a folder holds."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from keepstep.data.cache import Cache, CacheConfig, ExtentName, object_name
from keepstep.data.cache.policy import Floats
from keepstep.data.store import StoredObject

PAGE = 4096
EXTENT = 3 * PAGE  # content and trailer take four pages
COST = 4 * PAGE
OBJECT = object_name(StoredObject("s3://bucket/object", 2**30, "tag"), 2**20)
OTHER = object_name(StoredObject("s3://bucket/other", 2**30, "tag"), 2**20)

Configure = Callable[..., CacheConfig]
OpenCache = Callable[..., Cache]


def soonest_first(names: Sequence[ExtentName]) -> Floats:
    """Extent n is needed at position n."""
    return np.array([name.number for name in names], dtype=np.float64)


def content(object: str, number: int, size: int = EXTENT) -> bytes:
    """The bytes that belong to an extent, and to no other."""
    seed = int(object[:8], 16) + number
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8).tobytes()


def fill(cache: Cache, numbers: range | list[int], object: str = OBJECT) -> list[bool]:
    return [cache.put(object, number, content(object, number)) for number in numbers]


def held(cache: Cache, count: int, object: str = OBJECT) -> list[int]:
    """Which of the first `count` extents are read back; each that is must be right."""
    found = {number: cache.get(object, number) for number in range(count)}
    for number, view in found.items():
        assert view is None or view == content(object, number)
    return [number for number, view in found.items() if view is not None]


def files(folder: Path) -> list[Path]:
    """The files of all entries below a folder, finished or not."""
    return sorted(path for path in folder.glob("**/v1/*/**/*") if path.is_file())


def used_bytes(folder: Path) -> int:
    return sum(-(-path.stat().st_size // PAGE) * PAGE for path in files(folder))


def entry_file(folder: Path, number: int, object: str = OBJECT) -> Path:
    (found,) = folder.glob(f"**/v1/extents/*/{object}-{number}")
    return found
