"""Values -> bytes in memory that processes share, and back: a JSON header, then raw bytes.

4 bytes of the header's length, the header, and each value's bytes on a multiple of 64. Scalars,
str, lists and dicts are in the header; bytes, arrays and tensors are pointed to. Nothing can be
called or imported by what is decoded.
"""

import json
import math
import struct
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError

_ALIGNED = 64
_LENGTH = struct.Struct("<I")
_PLAIN = (str, int, float, bool, type(None))


class TooLargeError(ValueError):
    """A value does not fit into its slot; `needed` is what it takes, in bytes."""

    def __init__(self, needed: int) -> None:
        super().__init__(f"{needed} bytes")
        self.needed = needed


def encode(value: Any, slot: memoryview, name: str) -> None:
    """Writes `value` into the slot; `name` says what it is, for errors.

    Raises:
        DataError: it holds something of another type.
        TooLargeError: it does not fit.
    """
    writer = _Writer(name)
    header = json.dumps(writer.tree(value, ()), separators=(",", ":")).encode()
    base = _aligned(_LENGTH.size + len(header))
    if base + writer.end > len(slot):
        raise TooLargeError(base + writer.end)
    _LENGTH.pack_into(slot, 0, len(header))
    slot[_LENGTH.size : _LENGTH.size + len(header)] = header
    for offset, part in writer.parts:
        start = base + offset
        if isinstance(part, bytes):
            slot[start : start + len(part)] = part
        elif part.size:
            # One copy, whatever the strides.
            np.ndarray(part.shape, part.dtype, slot, start)[...] = part


def decode(slot: memoryview, *, copy: bool = True) -> Any:
    """The value in the slot. Without `copy` its arrays and tensors are views of the slot."""
    length = _LENGTH.unpack_from(slot, 0)[0]
    tree = json.loads(bytes(slot[_LENGTH.size : _LENGTH.size + length]))
    return _value(tree, slot[_aligned(_LENGTH.size + length) :], copy)


@final
class _Writer:
    """Collects what is not JSON, and where it will lie."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.end = 0
        self.parts: list[tuple[int, Any]] = []

    def tree(self, value: Any, path: tuple[Any, ...]) -> Any:
        if type(value) in _PLAIN:
            return value
        if isinstance(value, list | tuple):
            return [self.tree(item, (*path, place)) for place, item in enumerate(value)]
        if isinstance(value, dict):
            pairs = [[self._key(key), self.tree(value[key], (*path, key))] for key in value]
            return {"dict": pairs}
        if isinstance(value, bytes | bytearray | memoryview):
            content = bytes(value)
            return {"bytes": [self._part(content, len(content)), len(content)]}
        if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "?biufcMmUS":
            word = "array" if isinstance(value, np.ndarray) else "scalar"
            array = np.asarray(value)
            start = self._part(array, array.nbytes)
            return {word: [array.dtype.str, list(array.shape), start]}
        if isinstance(value, Tensor):
            plain = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            name = str(value.dtype).removeprefix("torch.")
            return {"tensor": [name, list(value.shape), self._part(plain, plain.nbytes)]}
        where = "".join(f"[{part!r}]" for part in path)
        raise DataError(
            f"{self._name}{where}: found {_described(value)}, needed numbers, str, "
            "bytes, arrays, tensors, or lists and dicts of these, which cross to the processes of "
            "a transform; convert it, or run the transform without a pool"
        )

    def _key(self, key: Any) -> Any:
        if type(key) not in _PLAIN:
            raise DataError(
                f"{self._name}: found a key of {_described(key)}, needed str or a number; convert "
                "it, or run the transform without a pool"
            )
        return key

    def _part(self, part: Any, size: int) -> int:
        start = self.end
        self.parts.append((start, part))
        self.end = _aligned(start + size)
        return start


def _value(tree: Any, body: memoryview, copy: bool) -> Any:
    if isinstance(tree, list):
        return [_value(item, body, copy) for item in tree]
    if not isinstance(tree, dict):
        return tree
    [(word, facts)] = tree.items()
    if word == "dict":
        return {key: _value(item, body, copy) for key, item in facts}
    if word == "bytes":
        return bytes(body[facts[0] : facts[0] + facts[1]])
    name, shape, start = facts
    if word == "tensor":
        return _tensor(getattr(torch, name), shape, body[start:], copy)
    dtype, count = np.dtype(name), math.prod(shape)
    array = np.ndarray(shape, dtype, body, start) if count else np.empty(shape, dtype)
    if word == "scalar":
        return array[()]
    return array.copy() if copy else array


def _tensor(dtype: torch.dtype, shape: list[int], body: memoryview, copy: bool) -> Tensor:
    count = math.prod(shape)
    if count == 0:
        return torch.empty(shape, dtype=dtype)
    tensor = torch.frombuffer(body, dtype=dtype, count=count).reshape(shape)
    return tensor.clone() if copy else tensor


def _described(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}"
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _aligned(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED
