"""One file's byte locks and ring of records: how processes that share a folder keep one account.

Locks are those of open file descriptions (fcntl(2), F_OFD_SETLK): the kernel drops them when the
last process that holds the description ends, however it ends. Byte 0 guards the account; all other
bytes are leases. A record says that an extent was admitted or has gone.
"""

import contextlib
import errno
import fcntl
import os
import struct
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple, final

from .name import ExtentName

_LOCK = struct.Struct("hhqqi4x")  # struct flock of 64-bit Linux; l_pid must be 0
_HEADER = struct.Struct("<8sQ")
_MAGIC = b"KSLEDGR1"
_RECORD = struct.Struct("<16sQq")
_FIRST = 64
SLOTS = 4096
GUARD_SECONDS = 5.0
"""A peer holds the guard for milliseconds; one that was stopped (SIGSTOP) may not stop others."""


class Record(NamedTuple):
    """A change of what the folder holds."""

    name: ExtentName
    size: int
    """Bytes it costs; 0 where it has gone."""


@final
class Ledger:
    """An open ledger file. One thread at a time, but for `take`, `free` and `is_taken`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @contextlib.contextmanager
    def guard(self, timeout_seconds: float = GUARD_SECONDS) -> Iterator[None]:
        """The account is this thread's alone inside. TimeoutError where another keeps it."""
        deadline = time.monotonic() + timeout_seconds
        pause = 0.00002
        while not self.take(0):
            if time.monotonic() >= deadline:
                raise TimeoutError(
                    f"the cache's ledger was found locked for {timeout_seconds} s, needed for "
                    "milliseconds; look for a stopped process"
                )
            time.sleep(pause)
            pause = min(pause * 1.5, 0.005)
        try:
            yield
        finally:
            self.free(0)

    def head(self) -> int:
        """Records ever written. Inside the guard; begins the ring where there is none."""
        found = os.pread(self._fd, _HEADER.size, 0)
        if len(found) == _HEADER.size:
            magic, head = _HEADER.unpack(found)
            if magic == _MAGIC:
                return int(head)
        os.pwrite(self._fd, _HEADER.pack(_MAGIC, 0), 0)
        return 0

    def append(self, records: Sequence[Record], head: int | None = None) -> int:
        """Adds records and returns the new head. Inside the guard, in which `head` was read.

        A record counts from the moment the head says so, so that a kill between leaves no half.
        """
        head = self.head() if head is None else head
        for place, record in enumerate(records, head):
            content = _RECORD.pack(
                bytes.fromhex(record.name.object), record.name.number, record.size
            )
            os.pwrite(self._fd, content, _FIRST + place % SLOTS * _RECORD.size)
        os.pwrite(self._fd, _HEADER.pack(_MAGIC, head + len(records)), 0)
        return head + len(records)

    def since(self, seen: int) -> tuple[int, list[Record] | None]:
        """The head, and all records from the `seen`-th on; None where they are overwritten."""
        head = self.head()
        if not 0 <= head - seen <= SLOTS:
            return head, None
        records = []
        for place in range(seen, head):
            content = os.pread(self._fd, _RECORD.size, _FIRST + place % SLOTS * _RECORD.size)
            if len(content) < _RECORD.size:
                return head, None
            digest, number, size = _RECORD.unpack(content)
            records.append(Record(ExtentName(digest.hex(), number), size))
        return head, records

    def take(self, byte: int) -> bool:
        """Locks a byte against every other open ledger; False where one has it. Never blocks.

        The same ledger may lock it twice: threads are kept apart by whoever calls this.
        """
        if self._fd < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        try:
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _LOCK.pack(fcntl.F_WRLCK, 0, byte, 1, 0))
        except (BlockingIOError, PermissionError):  # EAGAIN or EACCES, says fcntl(2)
            return False
        return True

    def free(self, byte: int) -> None:
        if self._fd >= 0:  # else it was dropped with the file
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _LOCK.pack(fcntl.F_UNLCK, 0, byte, 1, 0))

    def is_taken(self, byte: int) -> bool:
        """Whether another open ledger has locked a byte; one's own locks are not seen."""
        asked = _LOCK.pack(fcntl.F_WRLCK, 0, byte, 1, 0)
        found = _LOCK.unpack(fcntl.fcntl(self._fd, fcntl.F_OFD_GETLK, asked))
        return bool(found[0] != fcntl.F_UNLCK)

    def close(self) -> None:
        """Drops all locks of this ledger, unless a forked child shares it; safe twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
