"""A tensor that torch.save wrote -> the tensor, without torch.load: the zip is read here, its
description by a machine that runs nothing, and its bytes are proven by the zip's own CRC-32."""

import io
import math
import zipfile
import zlib
from typing import Any

import torch

from ..dtypes import BY_NAME
from .pickled import Made, Named, Persistent, UnreadableError, read_pickle

_REBUILD = Named("torch._utils", "_rebuild_tensor_v2")
_ORDERED = Named("collections", "OrderedDict")
_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "ComplexFloatStorage": "complex64",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
# Dtypes younger than typed storages lie in an untyped one and are named beside it.
_REBUILD_V3 = Named("torch._utils", "_rebuild_tensor_v3")
_UNTYPED = Named("torch.storage", "UntypedStorage")
_ALLOWED = {
    *(_REBUILD, _REBUILD_V3, _ORDERED, _UNTYPED),
    *(Named("torch", name) for name in (*_STORAGES, *BY_NAME)),
}
_CONTENT = "/data.pkl"
_MOST_DESCRIPTION_BYTES = 65536


def tensor_of(data: bytes | bytearray) -> torch.Tensor:
    """The tensor in the bytes of one torch.save, its memory shared with `data` where it can be.

    Raises:
        UnreadableError: for anything but one dense tensor, or bytes that were changed.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            members = {member.filename: member for member in file.infolist()}
        root = next(name for name in members if name.endswith(_CONTENT)).removesuffix(_CONTENT)
        order = members.get(f"{root}/byteorder")
        if order is not None and bytes(_content(data, order)) == b"big":
            raise UnreadableError("has its bytes in big-endian order, which is not read")
        description = _content(data, members[root + _CONTENT])
        if len(description) > _MOST_DESCRIPTION_BYTES:
            raise UnreadableError("is no single tensor (its description is too long)")
        made = read_pickle(bytes(description), _ALLOWED)
        return _rebuild(made, lambda key: _content(data, members[f"{root}/data/{key}"]))
    except UnreadableError:
        raise
    except (
        *(zipfile.BadZipFile, StopIteration, LookupError, ValueError, OSError),
        *(AttributeError, TypeError, RuntimeError, NotImplementedError),
    ) as error:
        raise UnreadableError(f"is no tensor of torch.save ({error})") from error


def _content(data: bytes | bytearray, member: zipfile.ZipInfo) -> memoryview:
    """The stored bytes of a member, where they lie."""
    # The local header's own lengths count: torch pads it so that the content is aligned.
    at = member.header_offset
    name, extra = (int.from_bytes(data[at + k : at + k + 2], "little") for k in (26, 28))
    start = at + 30 + name + extra
    view = memoryview(data)[start : start + member.file_size]
    if member.compress_type != zipfile.ZIP_STORED or len(view) != member.file_size:
        raise UnreadableError("is no tensor of torch.save (its bytes are not stored whole)")
    # torch writes 0 where it was told to compute none.
    if member.CRC and zlib.crc32(view) != member.CRC:
        raise UnreadableError("does not match its CRC-32")
    return view


def _rebuild(made: Any, content: Any) -> torch.Tensor:
    if not isinstance(made, Made) or made.kind not in (_REBUILD, _REBUILD_V3):
        raise UnreadableError("is no plain tensor")
    storage, start, shape, stride, *rest = made.args
    if not isinstance(storage, Persistent) or storage.value[0] != "storage":
        raise UnreadableError("is no plain tensor (it has no storage)")
    _, kind, key, _, _ = storage.value
    is_v3 = made.kind == _REBUILD_V3
    dtype = BY_NAME[rest[2].name if is_v3 else _STORAGES[kind.name]]
    raw = content(str(key))
    if not all(type(one) is int and one >= 0 for one in (start, *shape, *stride)):
        raise UnreadableError("is no plain tensor (its shape is none)")
    if not math.prod(shape):
        return torch.empty(shape, dtype=dtype)
    flat = torch.frombuffer(raw, dtype=dtype) if len(raw) else torch.empty(0, dtype=dtype)
    last = start + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if last >= flat.numel():
        raise UnreadableError(f"has {flat.numel()} elements where it needs {last + 1}")
    return flat.as_strided(shape, stride, start)
