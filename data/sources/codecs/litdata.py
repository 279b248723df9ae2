"""One item of a litdata chunk -> a record: a size for each leaf, the leaves, and the tree of them.

Layout: litdata/streaming/{writer,serializers,item_loader}.py and utilities/_pytree.py. Leaves that
are files (pictures, sound, film, ...) stay the bytes of the file; tensors are arrays.
"""

import json
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import CorruptDataError, DataError
from ..listing import RESTORE
from ..source import Record
from .images import blobs, raw_image
from .nested import nested

_TORCH = (
    *("f4", "f4", "f8", "f8", "c8", "c8", "c16", "c16", "f2", "f2", "bfloat16", "u1", "i1"),
    *("i2", "i2", "i4", "i4", "i8", "i8", "?", "u2"),
)
_NUMPY = (*("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16", "?"),)
_FILES = ("file", "image", "jpeg", "video", "audio", "nifti", "mesh", "pdf", "tiff", "tifffile")
_LISTS = ("builtins.list", "builtins.tuple", "collections.deque")
_DICTS = ("builtins.dict", "collections.OrderedDict", "collections.defaultdict")
Build = Callable[[Iterator[Any]], Any]


def item_decoder(leaves: Sequence[str], spec: str, where: str) -> Callable[[memoryview], Record]:
    """Decodes items whose leaves are of these kinds, in the tree that `spec` describes.

    A tree that is no dict is one record: a list or tuple by its places "0", "1", ..., and a lone
    leaf as "item".

    Raises:
        DataError: a kind is unknown, or pickled.
        CorruptDataError: `spec` is no tree of as many leaves.
    """
    values = [leaf_decoder(kind, where) for kind in leaves]
    try:
        tree = json.loads(spec)[1]
        build = _builder(tree)
        build(iter([None] * len(leaves)))
        count = _leaves(tree)
    except (ValueError, KeyError, TypeError, IndexError, RecursionError, StopIteration) as error:
        raise CorruptDataError(where, f"data_spec {spec[:80]}", "a tree", RESTORE) from error
    if count != len(leaves):
        raise CorruptDataError(where, f"a tree of {count} leaves", f"{len(leaves)}", RESTORE)

    def decode(body: memoryview) -> Record:
        sizes = np.frombuffer(body[: 4 * len(values)], dtype="<u4").tolist()
        found, start = [], 4 * len(values)
        for value, size in zip(values, sizes, strict=True):
            found.append(value(body[start : start + size]))
            start += size
        if start != len(body):
            raise ValueError(f"{len(body)} bytes where the leaves need {start}")
        return _record(build(iter(found)))

    return decode


def leaf_decoder(kind: str, where: str) -> Callable[[memoryview], Any]:
    """What makes a value of the bytes of a leaf.

    Raises:
        DataError: the kind is unknown, or may hold pickled values.
    """
    name, _, setting = kind.partition(":")
    if name in ("pickle", "graph"):
        raise DataError(
            f"{where}: found leaves of the kind {name}, which may hold pickled values that run any "
            "code when read, needed another; write them as arrays, bytes or text"
        )
    if name in _FILES:
        return bytes
    tables = {"no_header_numpy": _NUMPY, "no_header_tensor": _TORCH}
    if name in tables and setting.isdecimal() and int(setting) < len(tables[name]):
        dtype = tables[name][int(setting)]
        return lambda body: _array(body, dtype, None)
    if name not in _LEAVES:
        raise DataError(
            f"{where}: found leaves of the kind {kind[:80]!r}, needed one of "
            f"{', '.join([*_LEAVES, *tables, *_FILES])}; write them as one of these"
        )
    return _LEAVES[name]


def token_dtype(kind: str, where: str) -> str:
    """The type of tokens in chunks whose one leaf is of this kind.

    Raises:
        DataError: it is no array of whole numbers.
    """
    name, _, setting = kind.partition(":")
    table = {"no_header_numpy": _NUMPY, "no_header_tensor": _TORCH}.get(name, ())
    dtype = table[int(setting)] if setting.isdecimal() and int(setting) < len(table) else ""
    if dtype[:1] not in ("i", "u"):
        raise DataError(
            f"{where}: found tokens of the kind {kind[:80]!r}, needed one-dimensional arrays of "
            "whole numbers; write them so"
        )
    return f"<{dtype}"


def _builder(tree: Any) -> Build:
    """What takes a tree's leaves, in order, and gives the tree."""
    kind = tree["type"]
    if kind is None:
        return next
    children = [_builder(child) for child in tree["children_spec"]]
    if kind in _LISTS:
        return lambda leaves: [child(leaves) for child in children]
    if kind not in _DICTS:
        raise ValueError(f"a node of the kind {kind}")
    names = json.loads(tree["context"])
    names = names[1] if kind == "collections.defaultdict" else names
    if len(names) != len(children) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"names {names}")
    return lambda leaves: {name: child(leaves) for name, child in zip(names, children, strict=True)}


def _leaves(tree: Any) -> int:
    return 1 if tree["type"] is None else sum(_leaves(child) for child in tree["children_spec"])


def _record(tree: Any) -> Record:
    if isinstance(tree, dict):
        return tree
    if isinstance(tree, list):
        return {str(place): value for place, value in enumerate(tree)}
    return {"item": tree}


def _array(body: memoryview, dtype: str, shape: tuple[int, ...] | None) -> npt.NDArray[Any]:
    # The bytes of bfloat16, which NumPy does not have, are the upper half of float32's.
    is_half = dtype == "bfloat16"
    kind = np.dtype("<u2") if is_half else np.dtype(dtype).newbyteorder("<")
    if len(body) % kind.itemsize or (shape and math.prod(shape) * kind.itemsize != len(body)):
        raise ValueError(f"{len(body)} bytes for {dtype} of shape {shape}")
    found = np.frombuffer(body, dtype=kind)
    if is_half:
        found = (found.astype("<u4") << 16).view("<f4")
    return found if shape is None else found.reshape(shape)


def _shaped(form: str, table: tuple[str, ...]) -> Callable[[memoryview], npt.NDArray[Any]]:
    def decode(body: memoryview) -> npt.NDArray[Any]:
        dtype, axes = struct.unpack_from(f"{form}II", body)
        if 8 + 4 * axes > len(body):
            raise ValueError(f"{axes} axes in {len(body)} bytes")
        shape = struct.unpack_from(f"{form}{axes}I", body, 8)
        return _array(body[8 + 4 * axes :], table[dtype], shape)

    return decode


def _number(form: str) -> Callable[[memoryview], Any]:
    return lambda body: struct.unpack(form, body)[0]


_LEAVES: dict[str, Callable[[memoryview], Any]] = {
    "str": lambda body: bytes(body).decode(),
    "text": lambda body: bytes(body).decode(),
    "bool": _number("<?"),
    "int": _number("<q"),
    "float": _number("<d"),
    "bytes": bytes,
    "pil": raw_image,
    "jpeg_array": lambda body: [bytes(blob) for blob in blobs(body)],
    # A tensor's header is big-endian, an array's is not.
    "tensor": _shaped(">", _TORCH),
    "numpy": _shaped("<", _NUMPY),
    "json": nested,
}
