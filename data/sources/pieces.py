"""Objects read from front to back, a piece at a time, for passes that make an index.

Nothing is tried twice here: give a store that does.
"""

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, final

from ..access.packing import unpack
from ..errors import CorruptDataError, DataError
from ..store import Store, StoredObject
from .listing import RESTORE

Item = TypeVar("Item")
Result = TypeVar("Result")
PIECE_BYTES = 4 << 20
_TASKS = 16
# Packed bytes that are unpacked at once, so that no piece of them grows to much memory.
_STEP_BYTES = 32 << 10


def in_parallel(task: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """task(item) for each item, in order, a few at once: a survey waits for answers, not for work.

    The first error is raised, and what was not begun is left.
    """
    with ThreadPoolExecutor(_TASKS, thread_name_prefix="survey") as pool:
        tasks = [pool.submit(task, item) for item in items]
        try:
            return [one.result() for one in tasks]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@final
class Window:
    """Bytes of an object by offset; reads ahead a piece, and skips what is not asked for."""

    def __init__(
        self, read: Callable[[int, int], Any], size: int, url: str, piece_bytes: int = PIECE_BYTES
    ) -> None:
        self._read = read
        self.size = size
        self.url = url
        self._piece_bytes = piece_bytes
        self._start = 0
        self._content = b""

    @classmethod
    def of(cls, store: Store, obj: StoredObject, piece_bytes: int = PIECE_BYTES) -> "Window":
        """A window on the bytes of an object that is not packed."""
        return cls(lambda start, stop: store.read(obj, start, stop), obj.size, obj.url, piece_bytes)

    def at(self, start: int, length: int) -> bytes:
        """Exactly `length` bytes from `start` on.

        Raises:
            CorruptDataError: the object ends before.
        """
        stop = start + length
        if not 0 <= start <= stop <= self.size:
            raise CorruptDataError(
                self.url, f"an end at byte {self.size}", f"bytes {start} to {stop}", RESTORE
            )
        if not self._start <= start <= stop <= self._start + len(self._content):
            end = min(self.size, start + max(length, self._piece_bytes))
            self._content, self._start = bytes(self._read(start, end)), start
        return self._content[start - self._start : stop - self._start]


def pieces(store: Store, obj: StoredObject, piece_bytes: int = PIECE_BYTES) -> Iterator[bytes]:
    """The unpacked bytes of an object, in order.

    Raises:
        CorruptDataError: it does not unpack, or ends in the middle.
        DataError: the codec's package is not installed.
    """
    raw = (
        bytes(store.read(obj, start, min(start + piece_bytes, obj.size)))
        for start in range(0, obj.size, piece_bytes)
    )
    if not obj.packing:
        yield from raw
    elif obj.packing in ("br", "snappy"):
        yield unpack(memoryview(b"".join(raw)), obj)
    else:
        try:
            yield from _unpacked(raw, obj)
        except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
            raise CorruptDataError(
                obj.url, f"bytes that do not unpack ({error})", f"{obj.packing} data", RESTORE
            ) from error


def raw_size(store: Store, obj: StoredObject) -> int:
    """Unpacked bytes of an object, counted by unpacking it where it is packed."""
    return sum(len(piece) for piece in pieces(store, obj)) if obj.packing else obj.size


def _unpacked(raw: Iterator[bytes], obj: StoredObject) -> Iterator[bytes]:
    """Members or frames one after the other, as gzip and zstd files may hold them."""
    make = _decoder(obj)
    decoder = None
    for piece in raw:
        for start in range(0, len(piece), _STEP_BYTES):
            rest = piece[start : start + _STEP_BYTES]
            while rest:
                decoder = decoder or make()
                yield decoder.decompress(rest)
                # Zeros after a member are padding, as gzip itself takes them.
                rest = decoder.unused_data.lstrip(b"\0") if decoder.eof else b""
                decoder = None if decoder.eof else decoder
    if decoder is not None:
        raise EOFError("it ends in the middle of its data")


def _decoder(obj: StoredObject) -> Callable[[], Any]:
    plain: dict[str, Callable[[], Any]] = {
        "gzip": lambda: zlib.decompressobj(31),
        "bz2": bz2.BZ2Decompressor,
        "xz": lzma.LZMADecompressor,
    }
    if obj.packing in plain:
        return plain[obj.packing]
    try:
        import zstandard
    except ImportError as error:
        raise DataError(
            f"{obj.url}: found zstd data but no zstandard, needed it to unpack; run "
            "`pip install keepstep[zstd]`"
        ) from error
    return lambda: _Zstd(zstandard)


class _Zstd:
    """zstandard's decoder of one frame, with the standard library's names and errors."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._decoder = module.ZstdDecompressor().decompressobj()
        self.eof = False
        self.unused_data = b""

    def decompress(self, content: bytes) -> bytes:
        try:
            raw: bytes = self._decoder.decompress(content)
        except self._module.ZstdError as error:
            raise ValueError(str(error)) from error
        self.eof, self.unused_data = self._decoder.eof, self._decoder.unused_data
        return raw
