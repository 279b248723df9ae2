"""What each extent's bytes must be: as the lock says, or as they were when they first came in."""

from collections.abc import Callable, MutableMapping
from typing import final

import numpy as np
import numpy.typing as npt
import xxhash

from ..dataset import Dataset


@final
class Check:
    """Whether bytes are an extent's; True and False as `Fetcher.submit` asks for it."""

    def __init__(self, needed: bytes | None, learn: Callable[[bytes], None]) -> None:
        self.needed = needed
        self.digest = b""
        self._learn = learn

    def __call__(self, content: bytes | memoryview) -> bool:
        self.digest = xxhash.xxh3_128_digest(content)
        return self.needed in (None, self.digest)

    def learn(self) -> None:
        """Remembers what was accepted, so that a later fetch must bring the same."""
        if self.needed is None:
            self._learn(self.digest)


@final
class ExtentDigests:
    """xxh3-128 of each extent's bytes as its store holds them: packed ones packed."""

    def __init__(self, locked: npt.NDArray[np.uint8] | None) -> None:
        self._locked = locked
        self._learned: MutableMapping[int, bytes] = {}

    @classmethod
    def of(cls, dataset: Dataset, extent_bytes: int) -> "ExtentDigests":
        """Those of the dataset's lock, where it was made with digests of extents of this size."""
        return cls(dataset.extent_digests if dataset.extent_bytes == extent_bytes else None)

    def check(self, extent: int) -> Check:
        """A new check of one extent."""
        if self._locked is not None:
            return Check(self._locked[extent].tobytes(), lambda digest: None)
        return Check(
            self._learned.get(extent), lambda digest: self._learned.__setitem__(extent, digest)
        )
