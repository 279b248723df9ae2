"""What every store offers, and what is known of one object in it."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object, as it was when it was listed or locked."""

    url: str
    """Its full fsspec URL; an absolute path for a local file."""
    size: int
    """Bytes in the store."""
    tag: str = ""
    """What changes when the bytes do: an ETag without quotes, or "<mtime_ns>-<size>" of a file.
    Empty where the store has nothing of the kind."""
    packing: str = ""
    """How the object is compressed as a whole: "", "gzip", "zstd", "bz2", "xz", "br", "snappy"."""
    raw_size: int = -1
    """Bytes once unpacked; -1 where nothing is packed."""

    @property
    def raw_bytes(self) -> int:
        """Bytes of what the object holds, unpacked."""
        return self.raw_size if self.packing else self.size


class Store(Protocol):
    """The objects of one place (a bucket, a server, a disk). Safe to call from many threads.

    Nothing is tried twice here. All errors are those of `errors`: TransientError where trying
    again may help, and MissingError, ChangedError, DeniedError where it cannot.
    """

    def list(self, url: str) -> list[StoredObject]:
        """All objects at or below `url`, or that a glob in it matches, in order of their URLs.

        Names that begin with a dot, and empty objects that stand for folders, are left out.
        """
        ...

    def stat(self, url: str) -> StoredObject:
        """What is known of one object now."""
        ...

    def read(self, obj: StoredObject, start: int, stop: int) -> bytes | memoryview:
        """Exactly the bytes [start, stop) as the store holds them (packed ones stay packed).

        Blocks; may run in any thread. A tag that is no longer the object's is ChangedError, never
        the bytes of another version.
        """
        ...

    def content(self, url: str) -> bytes:
        """All bytes of one small object as it is now, in one request where the store can."""
        ...

    def close(self) -> None:
        """Gives connections back; safe twice. Reads under way may fail with TransientError."""
        ...
