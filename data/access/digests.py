"""What each extent's bytes must be: as the lock says, or as they were when they first came in."""

import hashlib
from collections.abc import Callable, MutableMapping
from typing import Protocol, final

import numpy as np
import numpy.typing as npt
import xxhash

from ..dataset import Dataset
from .extents import Cut

QUICK, STRONG = "xxh3_128", "sha256"
"""Digests of extents: the one finds damage, the other also what somebody set out to forge."""


class Hash(Protocol):
    """What hashlib and xxhash have in common."""

    @property
    def digest_size(self) -> int: ...

    def update(self, data: bytes | memoryview, /) -> None: ...

    def digest(self) -> bytes: ...

    def hexdigest(self) -> str: ...


def new_hash(algorithm: str) -> Hash:
    """A digest of that name, of nothing yet."""
    return hashlib.sha256() if algorithm == STRONG else xxhash.xxh3_128()


def algorithm_of(table: npt.NDArray[np.uint8]) -> str:
    """Which digests a lock's table of extents holds, by their width."""
    return STRONG if table.shape[1] == new_hash(STRONG).digest_size else QUICK


@final
class Check:
    """Whether bytes are an extent's; True and False as `Fetcher.submit` asks for it.

    `quick` is the xxh3-128 of what was checked last; empty where another digest was asked for.
    """

    def __init__(
        self,
        needed: bytes | None,
        learn: Callable[[bytes], None] = lambda digest: None,
        algorithm: str = QUICK,
    ) -> None:
        self.needed = needed
        self.quick = b""
        self._algorithm = algorithm
        self._learn = learn

    def __call__(self, content: bytes | memoryview) -> bool:
        if self._algorithm == STRONG:
            return hashlib.sha256(content).digest() == self.needed
        self.quick = xxhash.xxh3_128_digest(content)
        return self.needed in (None, self.quick)

    def learn(self) -> None:
        """Remembers what was accepted, so that a later fetch must bring the same."""
        if self.needed is None:
            self._learn(self.quick)


@final
class ExtentDigests:
    """Digests of each extent's bytes as its store holds them: packed ones packed."""

    def __init__(self, locked: npt.NDArray[np.uint8] | None) -> None:
        self._locked = locked
        self._algorithm = QUICK if locked is None else algorithm_of(locked)
        self._learned: MutableMapping[int, bytes] = {}

    @classmethod
    def of(cls, dataset: Dataset, cut: Cut) -> "ExtentDigests":
        """Those of the dataset's lock, where it was made with digests of extents cut like this."""
        is_same = cut == (dataset.extent_bytes, dataset.extent_overlap)
        return cls(dataset.extent_digests if is_same else None)

    def check(self, extent: int) -> Check:
        """A new check of one extent."""
        if self._locked is not None:
            return Check(self._locked[extent].tobytes(), algorithm=self._algorithm)
        return Check(
            self._learned.get(extent), lambda digest: self._learned.__setitem__(extent, digest)
        )
