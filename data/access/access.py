"""What a source asks of its objects: ranges of bytes now, and word of those wanted soon."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ..store import StoredObject

Numbers = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
# Units, as the dataset counts them -> the position, in samples, at which each is next wanted.
NextUse = Callable[[Numbers], Numbers]


class Ranges(NamedTuple):
    """Ranges [start, stop) of unpacked bytes; three int64 arrays of equal length."""

    objects: Numbers
    """Places in the access's list of objects."""
    starts: Numbers
    stops: Numbers

    @classmethod
    def of(cls, ranges: Sequence[tuple[int, int, int]]) -> "Ranges":
        """Ranges of (object, start, stop) triples."""
        table = np.array(ranges, dtype=np.int64).reshape(-1, 3)
        return cls(table[:, 0], table[:, 1], table[:, 2])


class Access(Protocol):
    """The unpacked bytes of a fixed list of objects. Safe to call from many threads."""

    @property
    def objects(self) -> Sequence[StoredObject]: ...

    def read(self, ranges: Ranges) -> list[memoryview]:
        """The bytes of each range, in order. Blocks while they come in.

        What is returned may be a view of a mapped file: it stays readable, and is not written to.
        """
        ...

    def gather(self, ranges: Ranges, width: int) -> Bytes:
        """(n, width), in new memory: row i begins with the bytes of range i, no longer than a row;
        what is left of it is 0. Blocks.
        """
        ...

    def want(self, ranges: Ranges, due: npt.NDArray[np.float64]) -> None:
        """Says that range i will be read at time due[i] (time.monotonic seconds). Never blocks."""
        ...

    def follow(self, next_use: NextUse) -> None:
        """Says how to tell when any unit (a sample, or a token where objects are arrays of tokens)
        is next wanted, by which what is kept is chosen. May be called at any time, by any thread.
        """
        ...

    @property
    def ahead_bytes(self) -> int:
        """How far ahead of its reading, in bytes of samples, it is of use to be told what will be
        read: what is asked for earlier would push out what is needed sooner. 0: not at all."""
        ...

    @property
    def is_full(self) -> bool:
        """Whether so much is on its way that more would only wait behind it."""
        ...

    @property
    def waited(self) -> Mapping[str, float]:
        """Seconds that `read` and `fill` have blocked so far, by cause: "network" and "lock"."""
        ...

    @property
    def outage(self) -> str | None:
        """Since when and why the store does not answer; None while it does."""
        ...

    @property
    def counts(self) -> Mapping[str, float]:
        """Bytes by tier, requests, retries, hedges and the like, since the access was made."""
        ...

    def close(self) -> None:
        """Lets go of maps, threads and connections; safe twice."""
        ...
