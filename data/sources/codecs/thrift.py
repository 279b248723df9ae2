"""Thrift's compact protocol -> numbers, bytes, lists, and structs as dicts by field number.

Parquet's footers are such structs. pyarrow's own access to their columns ends the process where a
footer is damaged (an exception of C++ that nobody takes), so what a survey needs is read here.
Layout: thrift-compact-protocol.md of Apache Thrift.
"""

import struct
from typing import Any

_STOP, _TRUE, _FALSE, _BYTE = range(4)
_DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(7, 13)
_DEEPEST = 32


def read_struct(content: bytes) -> dict[int, Any]:
    """The struct that `content` begins with.

    Raises:
        ValueError, IndexError: it is damaged, or nested without end.
    """
    return _Reader(content).struct(0)


class _Reader:
    def __init__(self, content: bytes) -> None:
        self._content = content
        self._place = 0

    def struct(self, depth: int) -> dict[int, Any]:
        if depth > _DEEPEST:
            raise ValueError(f"structs nested more than {_DEEPEST} deep")
        found: dict[int, Any] = {}
        number = 0
        while (head := self._byte()) != _STOP:
            step, kind = head >> 4, head & 15
            number = number + step if step else self._integer()
            # A field that is a truth value has it in place of its type.
            found[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind, depth)
        return found

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (_TRUE, _FALSE):
            return self._byte() == _TRUE
        if kind == _BYTE:
            return self._byte()
        if kind < _DOUBLE:
            return self._integer()
        if kind == _DOUBLE:
            return struct.unpack("<d", self._take(8))[0]
        if kind == _BINARY:
            return self._take(self._varint())
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in (_LIST, _SET):
            head = self._byte()
            count = self._fitting(head >> 4 if head >> 4 < 15 else self._varint())
            return [self._value(head & 15, depth + 1) for _ in range(count)]
        if kind == _MAP:
            count = self._fitting(self._varint())
            kinds = self._byte() if count else 0
            return [
                (self._value(kinds >> 4, depth + 1), self._value(kinds & 15, depth + 1))
                for _ in range(count)
            ]
        raise ValueError(f"a value of the unknown type {kind}")

    def _fitting(self, count: int) -> int:
        """A number of values, each of which takes a byte at least."""
        if count > len(self._content) - self._place:
            raise ValueError(f"a list of {count} in {len(self._content)} bytes")
        return count

    def _byte(self) -> int:
        self._place += 1
        return self._content[self._place - 1]

    def _take(self, size: int) -> bytes:
        found = self._content[self._place : self._place + size]
        if len(found) != size:
            raise ValueError(f"{len(found)} bytes where {size} are needed")
        self._place += size
        return found

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("a number of more than 64 bits")

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
