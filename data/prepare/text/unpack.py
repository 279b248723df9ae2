"""Opens a file of raw text for reading in order, unpacked whatever it is packed with."""

import io
from functools import partial
from typing import IO, Any, final

from ...access.packing import packing_of, unzstd
from ...errors import DataError
from .files import SourceFile

_CHUNK_BYTES = 256 * 1024


def open_unpacked(file: SourceFile) -> IO[bytes]:
    """A stream of its unpacked bytes.

    Raises:
        DataError: the packing's package is not installed, or nothing here unpacks it.
    """
    packing = "gzip" if file.name.lower().endswith(".tgz") else packing_of(file.name)
    if packing in ("br", "snappy"):
        raise DataError(
            f"{file.path}: found a file packed with {packing}, needed text plain or packed with "
            "gzip, zstd, bz2 or xz; pack it anew"
        )
    if packing != "zstd":
        names = {"": None, "gzip": "gzip", "bz2": "bz2", "xz": "xz"}
        opened = file.filesystem.open(file.path, "rb", compression=names[packing])
        return opened  # type: ignore[no-any-return]
    try:
        import zstandard
    except ImportError as error:
        raise DataError(
            f"{file.path}: found zstd data but no zstandard, needed it to unpack; run "
            "`pip install keepstep[zstd]`"
        ) from error
    raw = file.filesystem.open(file.path, "rb")
    return io.BufferedReader(_Unzstd(raw, zstandard), _CHUNK_BYTES)


@final
class _Unzstd(io.RawIOBase):
    """A stream of what zstd frames hold, one after another."""

    def __init__(self, raw: IO[bytes], module: Any) -> None:
        self._raw = raw
        self._parts = unzstd(module, iter(partial(raw.read, _CHUNK_BYTES), b""))
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            if (part := next(self._parts, None)) is None:
                return 0
            self._ready = memoryview(part)
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()
