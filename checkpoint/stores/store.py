"""What a place that holds checkpoints offers: named objects in folders one level deep.

Knows nothing of what the bytes mean.
"""

from collections.abc import Iterable
from typing import Protocol

from .pace import Piece


class Store(Protocol):
    """Objects named `folder/file`. No object is ever written twice."""

    @property
    def reads_at_once(self) -> int:
        """How many threads of a process may well read at the same time."""
        ...

    @property
    def smallest_read(self) -> int:
        """Bytes: what is shorter is better read together with its neighbours, and copied."""
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

    def read_into(self, name: str, start: int, buffer: memoryview) -> int:
        """Fills `buffer` from byte `start`; answers how many bytes there were."""
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
    count = store.read_into(name, 0, memoryview(buffer))
    return bytes(buffer[:count])
