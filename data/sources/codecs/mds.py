"""One sample of a Mosaic Data Shard, version 2 -> a record: all encodings but pickle.

Layout as mosaicml-streaming writes it (streaming/base/format/{mds,json,xsv}): the sizes of the
variable columns, then all columns' bytes, in order of the columns' names; or one line of text.
"""

import json
import math
import struct
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import DataError
from ..source import FixedColumn, Record
from .images import blobs, raw_image

Value = Callable[[memoryview], Any]

_SCALARS = {
    name: np.dtype(name).newbyteorder("<")
    for name in (
        *("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
        *("float16", "float32", "float64"),
    )
}
_CODES = {
    8: "uint8",
    9: "int8",
    16: "uint16",
    17: "int16",
    18: "float16",
    32: "uint32",
    33: "int32",
    34: "float32",
    64: "uint64",
    65: "int64",
    66: "float64",
}


def columns_decoder(
    names: Sequence[str], encodings: Sequence[str], sizes: Sequence[int | None], where: str
) -> Callable[[memoryview], Record]:
    """Decodes the bytes of one sample with these columns; `where` is the index, for messages.

    Raises:
        DataError: a column is pickled or of an unknown encoding.
    """
    values = [
        value_decoder(encoding, f"{where}, column {n!r}")
        for n, encoding in zip(names, encodings, strict=True)
    ]
    variable = sizes.count(None)
    form = struct.Struct(f"<{variable}I")

    def decode(body: memoryview) -> Record:
        lengths = iter(form.unpack_from(body))
        record, start = {}, form.size
        for name, value, fixed in zip(names, values, sizes, strict=True):
            # A fixed size of 0 has no length before it: so does the writer, whatever its reader
            # does.
            stop = start + (next(lengths) if fixed is None else fixed)
            if stop > len(body):
                raise ValueError(f"column {name!r} ends beyond the sample's {len(body)} bytes")
            record[name] = value(body[start:stop])
            start = stop
        if start != len(body):
            raise ValueError(f"{len(body)} bytes of which the columns fill {start}")
        return record

    return decode


def fixed_layout(
    names: Sequence[str], encodings: Sequence[str], sizes: Sequence[int | None]
) -> dict[str, FixedColumn] | None:
    """Where each column lies in every sample, where all are numbers or arrays of one size."""
    layout: dict[str, FixedColumn] = {}
    start = 0
    for name, encoding, size in zip(names, encodings, sizes, strict=True):
        kind, _, setting = encoding.partition(":")
        dtype, _, dims = setting.partition(":") if kind == "ndarray" else (kind, "", "1")
        dtype = "int64" if dtype == "int" else dtype
        if dtype not in _SCALARS or not dims:
            return None
        shape = tuple(map(int, dims.split(","))) if kind == "ndarray" else ()
        if size != math.prod(shape) * _SCALARS[dtype].itemsize:
            return None
        layout[name] = FixedColumn(start, _SCALARS[dtype], shape)
        start += size
    return layout


def value_decoder(encoding: str, where: str) -> Value:
    """What makes a value of a column's bytes.

    Pictures of pil are arrays (see `raw_image`); jpeg and png stay the bytes of their file.

    Raises:
        DataError: the encoding is pickle, or unknown.
    """
    kind, _, setting = encoding.partition(":")
    if kind == "pkl":
        raise DataError(
            f"{where}: found pickled values, which can run any code when read, needed another "
            "encoding; write the column as json, ndarray or bytes"
        )
    if kind == "ndarray":
        return _array_decoder(setting, where)
    if encoding in _SCALARS:
        return lambda body: _scalar(body, _SCALARS[encoding])
    if encoding not in _VALUES:
        known = ", ".join([*_VALUES, *_SCALARS, "ndarray"])
        raise DataError(
            f"{where}: found the encoding {encoding[:80]!r}, needed one of {known}; write the "
            "column in one of these"
        )
    return _VALUES[encoding]


def json_decoder() -> Callable[[memoryview], Record]:
    """Decodes a line that is a JSON object."""

    def decode(body: memoryview) -> Record:
        record = json.loads(bytes(body))
        if not isinstance(record, dict):
            raise ValueError(f"a {type(record).__name__}, which is no JSON object")
        return record

    return decode


def separated_decoder(
    names: Sequence[str], encodings: Sequence[str], separator: str, newline: str, where: str
) -> Callable[[memoryview], Record]:
    """Decodes a line of values between `separator`, without quoting.

    Raises:
        DataError: an encoding is not str, int or float.
    """
    kinds: dict[str, Callable[[str], Any]] = {"str": str, "int": int, "float": float}
    if not set(encodings) <= set(kinds) or not separator or not newline:
        raise DataError(
            f"{where}: found columns of {', '.join(encodings)[:80]}, needed str, int or float; "
            "write the data again"
        )

    def decode(body: memoryview) -> Record:
        parts = bytes(body).decode().removesuffix(newline).split(separator)
        triples = zip(names, encodings, parts, strict=True)
        return {name: kinds[encoding](part) for name, encoding, part in triples}

    return decode


def _scalar(body: memoryview, dtype: np.dtype[Any]) -> Any:
    if len(body) != dtype.itemsize:
        raise ValueError(f"{len(body)} bytes for one {dtype}")
    return np.frombuffer(body, dtype=dtype)[0].item()


def _array_decoder(setting: str, where: str) -> Value:
    name, _, dims = setting.partition(":")
    try:
        fixed = _SCALARS[name] if name else None
        shape = tuple(int(dim) for dim in dims.split(",")) if dims else None
    except (KeyError, ValueError) as error:
        raise DataError(
            f"{where}: found the encoding 'ndarray:{setting[:80]}', needed "
            "ndarray[:dtype[:sizes]]; write the column in that form"
        ) from error

    def decode(body: memoryview) -> npt.NDArray[Any]:
        dtype, sizes = fixed, shape
        if dtype is None:
            dtype, body = _SCALARS[_CODES[body[0]]], body[1:]
        if sizes is None:
            axes, width = body[0] >> 2, 1 << (body[0] & 3)
            sizes = tuple(np.frombuffer(body[1 : 1 + axes * width], dtype=f"<u{width}").tolist())
            body = body[1 + axes * width :]
            if len(sizes) != axes:
                raise ValueError(f"{len(sizes)} sizes for {axes} axes")
        if math.prod(sizes) * dtype.itemsize != len(body):
            raise ValueError(f"{len(body)} bytes for {dtype} of shape {sizes}")
        return np.ndarray(sizes, dtype, body)

    return decode


def _text(body: memoryview) -> str:
    return bytes(body).decode()


def _list_of(body: memoryview) -> list[memoryview]:
    # Four bytes come first that the writer keeps for later.
    return blobs(body[4:])


_VALUES: dict[str, Value] = {
    "bytes": bytes,
    "str": _text,
    "int": lambda body: _scalar(body, _SCALARS["int64"]),
    "str_int": lambda body: int(_text(body)),
    "str_float": lambda body: float(_text(body)),
    "str_decimal": lambda body: Decimal(_text(body)),
    "pil": raw_image,
    "jpeg": bytes,
    "png": bytes,
    "jpeg_array": lambda body: [bytes(blob) for blob in blobs(body)],
    "jpegarray": lambda body: [bytes(blob) for blob in blobs(body)],
    "list[pil]": lambda body: [raw_image(blob) for blob in _list_of(body)],
    "list[jpeg]": lambda body: [bytes(blob) for blob in _list_of(body)],
    "list[png]": lambda body: [bytes(blob) for blob in _list_of(body)],
    "json": lambda body: json.loads(bytes(body)),
}
