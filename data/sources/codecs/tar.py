"""Tar archives of any kind -> their regular members, and names -> key and extension.

ustar, pax (path and size) and GNU tar (long names, sizes in base 256). Layout: POSIX.1-2001 pax,
and the tar(5) manual; keys as webdataset/tariterators.py `base_plus_ext` makes them.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple, Protocol

BLOCK = 512
# Names and pax records longer than this are taken for damage.
_MOST_NAME_BYTES = 1 << 20
_NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)", re.DOTALL)
_META = re.compile(r"__[^/]*__($|/)")


class Content(Protocol):
    """Bytes by offset; `at` raises CorruptDataError or ValueError where they end before."""

    size: int

    def at(self, start: int, length: int) -> bytes: ...


class Member(NamedTuple):
    """A regular file in an archive: all of it lies in [first, end), its bytes in [start, stop)."""

    name: str
    first: int
    start: int
    stop: int
    end: int


def members(content: Content) -> Iterator[Member]:
    """The regular members in order, up to the blocks of zeros at the end, or the end.

    Raises:
        ValueError: a header whose checksum or numbers are wrong.
    """
    place = first = 0
    known: dict[str, bytes] = {}
    while place + BLOCK <= content.size:
        head = content.at(place, BLOCK)
        if not any(head):
            return
        _check_sum(head, place)
        kind, size = head[156:157], _number(head[124:136], place)
        start = place + BLOCK
        if kind in (b"x", b"g", b"L", b"K"):
            if size > _MOST_NAME_BYTES:
                raise ValueError(f"a header of {size} bytes at byte {place}")
            body = content.at(start, size)
            known |= _records(body) if kind == b"x" else {}
            known |= {"path": body.rstrip(b"\0")} if kind == b"L" else {}
            place = start + _padded(size)
            continue
        if "size" in known:
            size = int(known["size"])
        stop = start + (0 if kind in b"123456" else size)
        if size < 0 or stop > content.size:
            raise ValueError(f"a member of {size} bytes at byte {place}, more than there are")
        place = start + _padded(stop - start)
        name = known["path"].decode("utf-8", "surrogateescape") if "path" in known else _name(head)
        # A name that ends in a slash is a folder, as old archives have them.
        if kind in (b"0", b"\0", b"7") and not name.endswith("/"):
            yield Member(name, first, start, stop, min(place, content.size))
        first, known = place, {}
    if place < content.size:
        raise ValueError(f"an end in the middle of a header at byte {place}")


def key_of(name: str) -> tuple[str, str] | None:
    """What names a member's sample, and its extension; None for one that belongs to no sample."""
    if _META.match(name) or ("/" not in name and name.startswith("__") and name.endswith("__")):
        return None
    found = _NAME.fullmatch(name)
    return (found.group(1), found.group(2).lower()) if found else None


def _check_sum(head: bytes, place: int) -> None:
    try:
        written = int(head[148:156].strip(b" \0") or b"0", 8)
    except ValueError:
        written = -1
    # Some old writers summed signed bytes.
    plain = sum(head) - sum(head[148:156]) + 8 * ord(" ")
    signed = plain - 256 * sum(x > 127 for x in head[:148] + head[156:])
    if written not in (plain, signed):
        raise ValueError(f"no tar header, or a damaged one, at byte {place}")


def _number(field: bytes, place: int) -> int:
    if field[0] in (0x80, 0xFF):
        return int.from_bytes(field[1:], "big") - (
            256 ** (len(field) - 1) if field[0] == 0xFF else 0
        )
    try:
        return int(field.strip(b" \0") or b"0", 8)
    except ValueError as error:
        raise ValueError(f"the size {field!r} at byte {place}") from error


def _name(head: bytes) -> str:
    name = head[:100].partition(b"\0")[0]
    prefix = head[345:500].partition(b"\0")[0] if head[257:263] == b"ustar\0" else b""
    return (prefix + b"/" + name if prefix else name).decode("utf-8", "surrogateescape")


def _records(body: bytes) -> dict[str, bytes]:
    """The records "<length> <key>=<value>\\n" of a pax header."""
    found: dict[str, bytes] = {}
    place = 0
    while place < len(body) and body[place : place + 1] != b"\0":
        digits = body[place : place + 20].partition(b" ")[0]
        length = int(digits)
        record = body[place + len(digits) + 1 : place + length]
        key, equals, value = record.partition(b"=")
        if length <= len(digits) + 1 or place + length > len(body) or not equals:
            raise ValueError(f"a damaged pax record {record[:40]!r}")
        found[key.decode()] = value.removesuffix(b"\n")
        place += length
    return found


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
