"""The file of one extent: its content, then a trailer that says whose it is and how it digests.

trailer (64 bytes, little-endian): magic "KSEXTNT1", the object's name (16 bytes), number (u64),
content size (u64), xxh3-128 of the content (16 bytes), xxh3-64 of the trailer so far (u64).
"""

import mmap
import os
import struct
from typing import NamedTuple

import xxhash

from ..errors import CorruptDataError
from .name import ExtentName

_MAGIC = b"KSEXTNT1"
_TRAILER = struct.Struct("<8s16sQQ16sQ")
_PAGE = 4096
_CHUNK = 2**20
_REMEDY = "nothing is to be done: the entry is deleted and fetched again"


class Entry(NamedTuple):
    """A mapped entry."""

    content: memoryview
    """Read-only; stays readable when the file is deleted, and unmaps when its last view is gone."""
    digest: str
    """xxh3-128 of the content, as its trailer says."""
    touched: float
    """When it was used last, as its file says (time.time seconds)."""


def disk_cost(content_bytes: int) -> int:
    """Bytes an entry takes of a file system: content and trailer in whole pages."""
    return -(-(content_bytes + _TRAILER.size) // _PAGE) * _PAGE


def write_entry(fd: int, name: ExtentName, content: memoryview, digest: str) -> None:
    """Writes a whole entry to an empty file. OSError where there is no room."""
    left = content
    while left:
        left = left[os.write(fd, left) :]
    body = _TRAILER.pack(
        _MAGIC, bytes.fromhex(name.object), name.number, len(content), bytes.fromhex(digest), 0
    )[:-8]
    trailer = body + struct.pack("<Q", xxhash.xxh3_64_intdigest(body))
    if os.write(fd, trailer) != len(trailer):
        raise OSError(f"extent {name.file}: found no room for its trailer, needed 64 bytes")


def map_entry(fd: int, name: ExtentName, *, verify: bool) -> Entry:
    """Maps an open entry; the descriptor may be closed after.

    Raises:
        CorruptDataError: the size or trailer is wrong or, where `verify`, the digest.
        OSError: the file cannot be read or mapped.
    """
    facts = os.fstat(fd)
    size = facts.st_size
    digest = _read_trailer(fd, size, name)
    if verify:
        found = _digest(fd, size - _TRAILER.size)
        if found != digest:
            raise CorruptDataError(name.file, f"a digest of {found}", digest, _REMEDY)
    mapped = mmap.mmap(fd, size, access=mmap.ACCESS_READ)
    return Entry(memoryview(mapped)[: size - _TRAILER.size], digest, facts.st_mtime)


def _read_trailer(fd: int, size: int, name: ExtentName) -> str:
    trailer = os.pread(fd, _TRAILER.size, max(size - _TRAILER.size, 0))
    if len(trailer) < _TRAILER.size:
        raise CorruptDataError(name.file, f"{size} bytes", "64 or more", _REMEDY)
    magic, owner, number, length, digest, check = _TRAILER.unpack(trailer)
    if magic != _MAGIC or check != xxhash.xxh3_64_intdigest(trailer[:-8]):
        raise CorruptDataError(name.file, "a broken trailer", "one that digests", _REMEDY)
    if (owner.hex(), number, length) != (*name, size - _TRAILER.size):
        raise CorruptDataError(
            name.file,
            f"{length} bytes of {owner.hex()}-{number}",
            f"{size - _TRAILER.size} of its own",
            _REMEDY,
        )
    return str(digest.hex())


def _digest(fd: int, size: int) -> str:
    # Read, not through the map: what a failing disk cannot give is an error here, and SIGBUS there.
    state = xxhash.xxh3_128()
    chunk = memoryview(bytearray(min(size, _CHUNK)))
    done = 0
    while done < size:
        count = os.preadv(fd, [chunk[: size - done]], done)
        if count == 0:
            break
        state.update(chunk[:count])
        done += count
    return state.hexdigest()
