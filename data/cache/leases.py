"""The right to fetch an extent: one holder a node, dropped by the kernel when its process ends."""

import threading
from typing import Protocol, final

from .name import ExtentName

_MASK = (1 << 61) - 1


class Locks(Protocol):
    """Bytes that one process at a time may hold."""

    def take(self, byte: int) -> bool: ...
    def free(self, byte: int) -> None: ...
    def is_taken(self, byte: int) -> bool: ...


@final
class Lease:
    """Held from its making until `release`, or the end of the process. A context manager."""

    def __init__(self, leases: "Leases", byte: int) -> None:
        self._leases: Leases | None = leases
        self._byte = byte

    def release(self) -> None:
        """Lets others fetch; safe twice."""
        leases, self._leases = self._leases, None
        if leases is not None:
            leases.release(self._byte)

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


@final
class Leases:
    """All leases of a process on one folder. Safe to call from many threads.

    Two extents may share a byte (one chance in 2^61): then one waits for the other.
    """

    def __init__(self, locks: Locks | None) -> None:
        self._locks = locks
        self._held: set[int] = set()
        self._lock = threading.Lock()

    def take(self, name: ExtentName) -> Lease | None:
        """The lease, or None where another thread or process holds it. Never blocks."""
        byte = _byte(name)
        with self._lock:
            if byte in self._held or not (self._locks is None or self._locks.take(byte)):
                return None
            self._held.add(byte)
        return Lease(self, byte)

    def is_taken(self, name: ExtentName) -> bool:
        byte = _byte(name)
        return byte in self._held or (self._locks is not None and self._locks.is_taken(byte))

    def release(self, byte: int) -> None:
        with self._lock:
            if byte in self._held:
                self._held.remove(byte)
                if self._locks is not None:
                    self._locks.free(byte)


def _byte(name: ExtentName) -> int:
    return 1 + (name.hash & _MASK)
