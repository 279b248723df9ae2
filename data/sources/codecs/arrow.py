"""Messages of Arrow's IPC stream: which there are, and where, without a look at their bodies.

Layout: the Arrow columnar format, "Serialization and Interprocess Communication", and
Message.fbs; only the five fields of the flatbuffers that say so are read here.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

from ...errors import CorruptDataError
from ..listing import RESTORE
from ..pieces import Window

SCHEMA, DICTIONARY, BATCH = 1, 2, 3
END = b"\xff\xff\xff\xff\0\0\0\0"
_MARK = 0xFFFFFFFF
# A schema of a hundred thousand columns has metadata of some megabytes.
_MOST_METADATA = 256 << 20


class Message(NamedTuple):
    """One message: metadata and body lie in [start, stop)."""

    kind: int
    rows: int
    start: int
    stop: int


def messages(content: Window, start: int, stop: int) -> Iterator[Message]:
    """The messages in [start, stop), up to the mark of the end or `stop`.

    Raises:
        CorruptDataError: there is something else, or one ends beyond.
    """
    while start + 8 <= stop:
        length, second = struct.unpack("<II", content.at(start, 8))
        prefix = 8 if length == _MARK else 4
        length = second if length == _MARK else length
        if length == 0:
            return
        if length > min(_MOST_METADATA, stop - start - prefix):
            _refuse(content.url, f"metadata of {length} bytes at byte {start}")
        try:
            kind, rows, body = _facts(content.at(start + prefix, length))
        except (struct.error, ValueError) as error:
            _refuse(content.url, f"damaged metadata at byte {start} ({error})")
        end = start + prefix + length + body
        if body < 0 or rows < 0 or end > stop:
            _refuse(content.url, f"a message of {rows} rows and {body} bytes at byte {start}")
        yield Message(kind, rows, start, end)
        start = end


def _refuse(url: str, found: str) -> NoReturn:
    raise CorruptDataError(url, found, "a message of Arrow's stream", RESTORE)


def _facts(metadata: bytes) -> tuple[int, int, int]:
    """The kind, rows (0 but of a batch) and bytes of body of a message."""
    message = _offset(metadata, 0)
    kind = _field(metadata, message, 1)
    header = _field(metadata, message, 2)
    body = _field(metadata, message, 3)
    kind_word = metadata[kind] if kind else 0
    rows = 0
    if kind_word == BATCH and header:
        batch = _offset(metadata, header)
        length, nodes = _field(metadata, batch, 0), _field(metadata, batch, 1)
        rows = _number("<q", metadata, length) if length else 0
        # The first node is the first column's: a count that lies would be found only when read.
        place = _offset(metadata, nodes) if nodes else 0
        if place and _number("<I", metadata, place):
            column = _number("<q", metadata, place + 4)
            if column != rows:
                raise ValueError(f"{rows} rows with a column of {column}")
    return kind_word, rows, _number("<q", metadata, body) if body else 0


def _offset(metadata: bytes, place: int) -> int:
    return place + _number("<I", metadata, place)


def _field(metadata: bytes, table: int, slot: int) -> int:
    """Where field `slot` of a table lies; 0 where it has its default."""
    fields = table - _number("<i", metadata, table)
    if 4 + 2 * slot >= _number("<H", metadata, fields):
        return 0
    found = _number("<H", metadata, fields + 4 + 2 * slot)
    if found and table + found >= len(metadata):
        raise ValueError(f"a field beyond its {len(metadata)} bytes")
    return table + found if found else 0


def _number(form: str, metadata: bytes, place: int) -> int:
    if place < 0:
        raise ValueError("an offset before its first byte")
    return int(struct.unpack_from(form, metadata, place)[0])
