"""Names of objects and extents in the cache, and of the files that hold them."""

import re
from typing import NamedTuple

import xxhash

from ..errors import DataError
from ..store import StoredObject

SMALLEST_EXTENT, LARGEST_EXTENT = 64 * 2**10, 8 * 2**20
_FILE = re.compile(r"([0-9a-f]{32})-(0|[1-9][0-9]{0,17})")
_TEMPORARY = re.compile(rf"([0-9a-f]{{12}})\.([0-9]{{1,18}})\.([0-9]{{1,9}})\.({_FILE.pattern})")


class ExtentName(NamedTuple):
    """An extent of an object: unpacked bytes, from about number * extent_bytes on."""

    object: str
    """What `object_name` gave."""
    number: int

    @property
    def hash(self) -> int:
        """64 bits that spread extents evenly."""
        return xxhash.xxh3_64_intdigest(self.file.encode())

    @property
    def file(self) -> str:
        return f"{self.object}-{self.number}"

    @property
    def shelf(self) -> str:
        """The one of 256 folders it lies in: a million entries make folders of four thousand."""
        return f"{self.hash & 0xFF:02x}"


def object_name(
    obj: StoredObject, extent_bytes: int, *, lead: int | None = None, overlap: int = 0
) -> str:
    """32 hexadecimal digits: xxh3-128 of (url, tag, size, packing, extent_bytes) and, where its
    extents are not plain multiples, (lead, overlap).

    An object that changed (another tag or size) has another name, so that its old entries are
    never read for it. An object without a tag is told from its successor by size alone.

    Args:
        lead: bytes before the second extent; None: `extent_bytes`.
        overlap: bytes that each extent goes beyond the next one's start.

    Raises:
        DataError: `extent_bytes` is not between 64 KiB and 8 MiB.
    """
    if not SMALLEST_EXTENT <= extent_bytes <= LARGEST_EXTENT:
        raise DataError(
            f"{obj.url}: found extents of {extent_bytes} bytes, needed {SMALLEST_EXTENT} to "
            f"{LARGEST_EXTENT}; set a size between them"
        )
    facts: tuple[str, ...] = (obj.url, obj.tag, str(obj.size), obj.packing, str(extent_bytes))
    if overlap or lead not in (None, extent_bytes):
        facts += (str(lead), str(overlap))
    return xxhash.xxh3_128_hexdigest("\0".join(facts).encode())


def parse_file(file: str) -> ExtentName | None:
    """The extent that a file of this name holds; None where the name is not one of ours."""
    found = _FILE.fullmatch(file)
    return ExtentName(found[1], int(found[2])) if found else None


def temporary_file(writer: str, size: int, count: int, name: ExtentName) -> str:
    """The file an extent is written to before it is published: who writes it, and its cost."""
    return f"{writer}.{size}.{count}.{name.file}"


def parse_temporary(file: str) -> tuple[str, int, ExtentName] | None:
    """The writer, the cost in bytes and the extent; None where the name is not one of ours."""
    found = _TEMPORARY.fullmatch(file)
    return (found[1], int(found[2]), ExtentName(found[5], int(found[6]))) if found else None
