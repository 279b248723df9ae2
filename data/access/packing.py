"""Objects that are compressed as a whole -> their bytes. Which codecs, and that sizes are right."""

import bz2
import gzip
import importlib
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
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


def unzstd(module: Any, chunks: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """The unpacked bytes of zstd frames, one after another; zstandard's own readers take a frame
    that is cut short for one that has ended.

    Raises:
        EOFError: they are damaged or cut short.
    """
    frame: Any = None
    for chunk in chunks:
        while chunk:
            frame = frame or module.ZstdDecompressor().decompressobj()
            try:
                yield frame.decompress(chunk)
            except module.ZstdError as error:
                raise EOFError(str(error)) from error
            chunk = b""
            if frame.eof:
                chunk, frame = frame.unused_data, None
    if frame is not None:
        raise EOFError("the last zstd frame is cut short")


def _windows(content: memoryview) -> Iterator[memoryview]:
    # Small, since behind each frame's end the rest of one is copied.
    for start in range(0, len(content), _WINDOW_BYTES):
        yield content[start : start + _WINDOW_BYTES]


_REMEDY = "restore the object from a copy"
_WINDOW_BYTES = 2**14


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
        return lambda content: b"".join(unzstd(module, _windows(content)))
    return lambda content: _whole(module.decompress, content)


def _whole(codec: Callable[[bytes], bytes], content: memoryview) -> bytes:
    """Of a package whose errors have classes of its own."""
    try:
        return codec(bytes(content))
    except Exception as error:
        raise ValueError(str(error)) from error
