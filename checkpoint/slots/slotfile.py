"""One slot: a file in shared memory that holds one rank's part of a state, or nothing.

Owns the bytes and the seal that makes them count. What the bytes mean is for `image` to say.

    page 0    words: magic, version, lengths, digests of plan and tail, pin, seal (written last)
    plan      JSON, written once a topology
    data      the image
    tail      digests of the image's parts and JSON, written with every snapshot
"""

import contextlib
import errno
import fcntl
import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import final

from ..digest import digest_bytes

_MAGIC, _VERSION = 0x746F6C737065656B, 2
_PAGE = mmap.PAGESIZE
# Words of 8 bytes, each written by one aligned store, so that no reader sees half of one.
_AT_MAGIC, _AT_VERSION, _PLAN_LENGTH, _DATA_LENGTH, _TAIL_LENGTH = 0, 1, 2, 3, 4
_AT_PLAN_DIGEST, _AT_TAIL_DIGEST = 5, 7
_AT_PIN, _AT_SEAL = 9, 10


@dataclass(frozen=True, slots=True)
class Sealed:
    """A slot as its seal proves it: `plan` and `tail` are whole, `data` is proven by who reads it.

    `data` is the place of the image in the file, in bytes: [start, stop).
    """

    step: int
    plan: bytes
    tail: bytes
    data: tuple[int, int]


@final
class SlotFile:
    """A slot by its descriptor, which may be open in several processes: one of them writes.

    Nothing is mapped until `map` is called.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._head = mmap.mmap(fd, _PAGE)
        self._words = memoryview(self._head).cast("Q")
        self._data: mmap.mmap | None = None

    @classmethod
    def named(cls, path: Path) -> "SlotFile":
        """The slot of that name, made where there is none; it outlives this process.

        Raises:
            OSError: it cannot be made, or is not a plain file of this user's.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(path, flags, 0o600)
        try:
            found = os.fstat(fd)
            if found.st_uid != os.geteuid() or found.st_nlink != 1:
                raise PermissionError(errno.EPERM, "The slot is not this user's alone", str(path))
            if found.st_size < _PAGE:
                os.posix_fallocate(fd, 0, _PAGE)
        except OSError:
            os.close(fd)
            raise
        return cls(fd)

    @classmethod
    def unnamed(cls) -> "SlotFile":
        """A slot without a name: it is gone when the last process that has it is."""
        fd = os.memfd_create("keepstep-slot", os.MFD_CLOEXEC)
        os.posix_fallocate(fd, 0, _PAGE)
        return cls(fd)

    def lock(self) -> bool:
        """Whether this process now holds the slot against other jobs; until the fd is closed."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def prepare(self, plan: bytes, data_bytes: int) -> None:
        """Writer: takes the room for an image of that size under that plan, unless it has it.

        What the slot held under another plan is gone.

        Raises:
            OSError: ENOSPC, there is not so much memory; the slot is empty then.
        """
        if self.has_plan(plan, data_bytes):
            return
        self.empty()
        words = self._words
        words[_AT_MAGIC], words[_AT_VERSION], words[_TAIL_LENGTH] = _MAGIC, _VERSION, 0
        words[_PLAN_LENGTH], words[_DATA_LENGTH] = len(plan), data_bytes
        # Taken now: a page that is missing later would end the process by SIGBUS.
        os.posix_fallocate(self.fd, 0, self._tail_start)
        os.pwrite(self.fd, plan, _PAGE)
        self._put_digest(_AT_PLAN_DIGEST, plan)

    def empty(self) -> None:
        """Writer: gives back the room that an image takes."""
        self.unseal()
        self._unmap()
        os.ftruncate(self.fd, _PAGE)

    def has_plan(self, plan: bytes, data_bytes: int) -> bool:
        """Whether the slot has room for just that image already."""
        words = self._words
        return (
            (words[_AT_MAGIC], words[_AT_VERSION]) == (_MAGIC, _VERSION)
            and words[_DATA_LENGTH] == data_bytes
            and self._digest(_AT_PLAN_DIGEST) == digest_bytes(plan)
            and os.fstat(self.fd).st_size >= self._tail_start
        )

    def map(self) -> memoryview:
        """After `prepare`: the image's bytes, shared with all who map them, in memory already."""
        length = max(1, self._words[_DATA_LENGTH])
        if self._data is None or len(self._data) != length:
            flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
            self._data = mmap.mmap(self.fd, length, flags=flags, offset=self._data_start)
        return memoryview(self._data)[: self._words[_DATA_LENGTH]]

    def unseal(self) -> None:
        """Writer: from here on the slot holds nothing, until it is sealed again."""
        self._words[_AT_SEAL] = 0

    def seal(self, step: int, tail: bytes) -> None:
        """Writer: what was copied counts from now on, as of `step`.

        Raises:
            OSError: ENOSPC for the tail.
        """
        start = self._tail_start
        if os.fstat(self.fd).st_size < start + len(tail):
            os.posix_fallocate(self.fd, start, _round(len(tail) * 2))
        os.pwrite(self.fd, tail, start)
        self._words[_TAIL_LENGTH] = len(tail)
        self._put_digest(_AT_TAIL_DIGEST, self._lengths(step) + tail)
        self._words[_AT_SEAL] = step + 1

    def read(self) -> Sealed | None:
        """What the slot holds; None where that is nothing whole."""
        words = self._words
        seal = words[_AT_SEAL]
        if not seal or (words[_AT_MAGIC], words[_AT_VERSION]) != (_MAGIC, _VERSION):
            return None
        start = self._data_start
        if os.fstat(self.fd).st_size < self._tail_start + words[_TAIL_LENGTH]:
            return None
        plan = os.pread(self.fd, words[_PLAN_LENGTH], _PAGE)
        tail = os.pread(self.fd, words[_TAIL_LENGTH], self._tail_start)
        is_whole = digest_bytes(plan) == self._digest(_AT_PLAN_DIGEST)
        is_whole &= digest_bytes(self._lengths(seal - 1) + tail) == self._digest(_AT_TAIL_DIGEST)
        # Read again last: a writer that began meanwhile has broken the seal.
        if not is_whole or words[_AT_SEAL] != seal:
            return None
        return Sealed(seal - 1, plan, tail, (start, start + words[_DATA_LENGTH]))

    def read_into(self, start: int, buffer: memoryview) -> int:
        """Bytes of the file from `start`, without mapping it; how many there were."""
        count = 0
        while count < len(buffer):
            part = os.preadv(self.fd, [buffer[count:]], start + count)
            if not part:
                break
            count += part
        return count

    @property
    def step(self) -> int:
        """The step whose state it holds, by its seal alone; -1 where it is not sealed."""
        return int(self._words[_AT_SEAL]) - 1

    @property
    def is_pinned(self) -> bool:
        """Whether somebody still reads it, so that the writer must take another one."""
        return bool(self._words[_AT_PIN])

    def pin(self) -> None:
        """Writer: keeps what is about to be sealed here until `unpin`."""
        self._words[_AT_PIN] = 1

    def unpin(self) -> None:
        """Reader: done with it."""
        self._words[_AT_PIN] = 0

    @property
    def num_bytes(self) -> int:
        """What the slot takes of the machine's memory."""
        return os.fstat(self.fd).st_size

    def close(self) -> None:
        """Gives back the maps and the descriptor; safe twice."""
        if self.fd >= 0:
            self._unmap()
            self._words.release()
            self._head.close()
            os.close(self.fd)
            self.fd = -1

    def _unmap(self) -> None:
        if self._data is not None:
            with contextlib.suppress(BufferError):  # views of it live on: it goes with them
                self._data.close()
            self._data = None

    @property
    def _data_start(self) -> int:
        return _round(_PAGE + self._words[_PLAN_LENGTH])

    @property
    def _tail_start(self) -> int:
        return self._data_start + _round(self._words[_DATA_LENGTH])

    def _lengths(self, step: int) -> bytes:
        """What the page says of the rest, so that the tail's digest proves it too."""
        words = self._words
        return struct.pack(
            "<4Q", words[_PLAN_LENGTH], words[_DATA_LENGTH], words[_TAIL_LENGTH], step
        )

    def _digest(self, at: int) -> str:
        return struct.pack(">QQ", self._words[at], self._words[at + 1]).hex()

    def _put_digest(self, at: int, data: bytes) -> None:
        self._words[at], self._words[at + 1] = struct.unpack(
            ">QQ", bytes.fromhex(digest_bytes(data))
        )


def _round(count: int) -> int:
    return -(-count // _PAGE) * _PAGE
