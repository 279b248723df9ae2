"""What a place that holds checkpoints offers: named objects in folders one level deep.

Knows nothing of what the bytes mean.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from .pace import Piece


@dataclass(frozen=True, kw_only=True, slots=True)
class Reads:
    """How a place is well read."""

    threads: int
    """Of one process, at the same time."""
    unit_bytes: int
    """At once: small neighbours together, up to so many."""
    run_bytes: int
    """In a row, by one thread from one file."""


class Source(Protocol):
    """An object that is open: fills buffers one after the other from byte `start` of it; answers
    how many bytes there were."""

    def __call__(self, start: int, *buffers: memoryview) -> int: ...


class Store(Protocol):
    """Objects named `folder/file`. No object is ever written twice."""

    @property
    def reads(self) -> Reads:
        """How much at once, and by how many."""
        ...

    def address(self, name: str = "") -> str:
        """Where an object, a folder or the place itself lies, for people."""
        ...

    def list(self) -> dict[str, float]:
        """Every object and when it last changed, in unix seconds; an empty folder as `folder/`."""
        ...

    def size(self, name: str) -> int:
        """The object's bytes; FileNotFoundError if there is none."""
        ...

    def opened(self, name: str) -> AbstractContextManager[Source]:
        """Opens an object to read it; a thread's own. FileNotFoundError if there is none, at the
        first read at the latest."""
        ...

    def create(self, name: str, pieces: Iterable[Piece]) -> None:
        """Creates the object whole and durable, or not at all; FileExistsError if it exists."""
        ...

    def remove(self, folder: str, *, first: str) -> None:
        """Removes a folder, its file `first` durably before the rest; silent if it is gone."""
        ...

    def free_bytes(self) -> int | None:
        """Bytes that can still be written here; None where there is no such bound."""
        ...


def read_bytes(store: Store, name: str) -> bytes:
    """The whole object."""
    buffer = bytearray(store.size(name))
    with store.opened(name) as read:
        count = read(0, memoryview(buffer))
    return bytes(buffer[:count])
