"""What a client library must do to serve as a place: one request at a time, nothing repeated."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from .pace import Piece


class Wire(Protocol):
    """Objects by key. Any thread may call. Errors are those of `errors`."""

    @property
    def connections(self) -> int:
        """Requests that may be under way at once."""
        ...

    def scan(self, prefix: str) -> dict[str, float]:
        """Every key that begins so and when it last changed, in unix seconds by the store."""
        ...

    def size(self, key: str) -> int:
        """The object's bytes; FileNotFoundError if there is none."""
        ...

    def read(self, key: str, start: int, buffer: memoryview) -> int:
        """Fills `buffer` from byte `start`; answers how many bytes there were."""
        ...

    def put(self, key: str, data: Piece) -> None:
        """Creates a small object in one request; FileExistsError if it exists, where the store can
        tell."""
        ...

    def upload(self, key: str, parts: Iterator[Piece]) -> None:
        """Creates an object of several parts, whole or not at all; at most `connections` parts are
        held. Parts that fail in a way that may pass are sent again. Whoever calls has looked that
        the name is free, and calls `abort` after a failure."""
        ...

    def delete(self, keys: Sequence[str]) -> None:
        """Removes objects; silent about those that are gone."""
        ...

    def pending(self, prefix: str) -> dict[str, float]:
        """Keys of uploads that were begun and not ended, and when; empty where none can be seen."""
        ...

    def abort(self, prefix: str) -> None:
        """Gives back what uploads that were not ended hold in the store."""
        ...
