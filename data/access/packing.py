"""Objects that are compressed as a whole -> their bytes. Which codecs, and that sizes are right."""

import bz2
import gzip
import importlib
import lzma
import zlib
from collections.abc import Callable
from typing import Any

from ..errors import CorruptDataError, DataError
from ..store import StoredObject

SUFFIXES = {
    ".gz": "gzip",
    ".zst": "zstd",
    ".zstd": "zstd",
    ".bz2": "bz2",
    ".xz": "xz",
    ".br": "br",
    ".snappy": "snappy",
}
# Codecs of packages that are not always there: the module, and what to install for it.
_OPTIONAL = {
    "zstd": ("zstandard", "keepstep[zstd]"),
    "br": ("brotli", "brotli"),
    "snappy": ("snappy", "python-snappy"),
}


def packing_of(name: str) -> str:
    """The packing that a name's suffix stands for; "" where it stands for none."""
    return next((word for suffix, word in SUFFIXES.items() if name.lower().endswith(suffix)), "")


def unpack(content: memoryview, obj: StoredObject) -> bytes:
    """The unpacked bytes of a whole object.

    Raises:
        DataError: the codec is unknown or its package is not installed.
        CorruptDataError: it does not unpack, or to another size than `raw_size`.
    """
    codec = _codec(obj)
    try:
        raw = codec(content)
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, RuntimeError) as error:
        raise CorruptDataError(
            obj.url, f"bytes that do not unpack ({error})", f"{obj.packing} data", _REMEDY
        ) from error
    if obj.raw_size not in (-1, len(raw)):
        raise CorruptDataError(
            obj.url, f"{len(raw)} bytes unpacked", f"{obj.raw_size} bytes", _REMEDY
        )
    return raw


_REMEDY = "restore the object from a copy"


def _codec(obj: StoredObject) -> Callable[[memoryview], bytes]:
    plain: dict[str, Callable[[Any], bytes]] = {
        "gzip": gzip.decompress,
        "bz2": bz2.decompress,
        "xz": lzma.decompress,
    }
    if obj.packing in plain:
        return plain[obj.packing]
    if obj.packing not in _OPTIONAL:
        known = ", ".join([*plain, *_OPTIONAL])
        raise DataError(
            f"{obj.url}: found the packing {obj.packing!r}, needed one of {known}; pack it anew"
        )
    name, package = _OPTIONAL[obj.packing]
    try:
        module: Any = importlib.import_module(name)
    except ImportError as error:
        raise DataError(
            f"{obj.url}: found {obj.packing} data but no {name}, needed it to unpack; run "
            f"`pip install {package}`"
        ) from error
    if obj.packing == "zstd":
        return lambda content: _unzstd(module, content)
    codec: Callable[[memoryview], bytes] = module.decompress
    return codec if obj.packing == "snappy" else lambda content: codec(bytes(content))  # type: ignore[arg-type]


def _unzstd(module: Any, content: memoryview) -> bytes:
    try:
        raw: bytes = (
            module.ZstdDecompressor().decompressobj(read_across_frames=True).decompress(content)
        )
    except module.ZstdError as error:
        raise ValueError(str(error)) from error
    return raw
