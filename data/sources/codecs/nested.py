"""litdata's compact form of nested JSON values -> Python values.

A tag byte, then the value, little-endian: litdata/streaming/serializers.py, `_nested_dumps`.
"""

import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

_JSON, _TEXTS, _INTEGERS, _FLOATS, _BOOLS, _DICT, _ROWS, _TEXT, _INTEGER, _FLOAT, _BOOL, _NONE = (
    range(12)
)
# In rows, values have tags of their own.
_ROW_TAGS = {0x10: _NONE, 0x11: _TEXT, 0x12: _INTEGER, 0x13: _FLOAT, 0x14: _BOOL}


def nested(body: memoryview) -> Any:
    """The value; that of JSON text, as older releases wrote, too.

    Raises:
        ValueError, struct.error, IndexError: it is damaged.
    """
    if not len(body) or body[0] > 0x20:
        return json.loads(bytes(body))
    cursor = _Cursor(body)
    value = cursor.value(cursor.byte())
    if cursor.place != len(body):
        raise ValueError(f"{len(body)} bytes of which the value fills {cursor.place}")
    return value


class _Cursor:
    def __init__(self, body: memoryview) -> None:
        self.body = body
        self.place = 0

    def byte(self) -> int:
        self.place += 1
        return self.body[self.place - 1]

    def take(self, size: int) -> memoryview:
        found = self.body[self.place : self.place + size]
        if len(found) != size:
            raise ValueError(f"{len(found)} bytes where {size} are needed")
        self.place += size
        return found

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self) -> str:
        return bytes(self.take(self.number("<I"))).decode()

    def value(self, tag: int) -> Any:
        simple: dict[int, Callable[[], Any]] = {
            _JSON: lambda: json.loads(self.text()),
            _TEXT: self.text,
            _INTEGER: lambda: self.number("<q"),
            _FLOAT: lambda: self.number("<d"),
            _BOOL: lambda: self.byte() != 0,
            _NONE: lambda: None,
            _INTEGERS: lambda: self._numbers("<i8"),
            _FLOATS: lambda: self._numbers("<f8"),
            _BOOLS: lambda: self._numbers("?"),
        }
        if tag in simple:
            return simple[tag]()
        if tag not in (_TEXTS, _DICT, _ROWS):
            raise ValueError(f"an unknown tag {tag}")
        count = self.count()
        if tag == _TEXTS:
            return [self.text() for _ in range(count)]
        if tag == _DICT:
            return {self.text(): self.value(self.byte()) for _ in range(count)}
        keys = [self.text() for _ in range(self.count())]
        return [{key: self.value(_ROW_TAGS[self.byte()]) for key in keys} for _ in range(count)]

    def count(self) -> int:
        """A number of things that take at least a byte each, so that none is larger than what is
        there."""
        count: int = self.number("<I")
        if count > len(self.body) - self.place:
            raise ValueError(f"a list of {count} in {len(self.body)} bytes")
        return count

    def _numbers(self, dtype: str) -> list[Any]:
        count = self.number("<I")
        values: list[Any] = np.frombuffer(
            self.take(count * np.dtype(dtype).itemsize), dtype=dtype
        ).tolist()
        return values
