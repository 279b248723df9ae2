"""litdata chunks compressed in frames of some items each: a frame is read and decoded at once.

Layout: litdata/streaming/framed_zstd.py, magic LDFZ01.
"""

import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ...access import Access, Ranges
from ...dataset import Dataset
from ...errors import CorruptDataError, DataError
from ...store import Store
from ..listing import RESTORE
from ..pieces import Window, in_parallel
from ..source import Ids, Record, Records
from .grouped import GroupRecords, Rows, group_arrays

_PREFIX = struct.Struct("<8sHHIII")
_FRAME = np.dtype(
    [("first", "<u4"), ("rows", "<u4"), ("start", "<u8"), ("packed", "<u4"), ("raw", "<u4")]
)
_MAGIC = b"LDFZ01\0\0"
_MOST_RATIO = 100_000


def survey(store: Store, dataset: Dataset) -> Dataset:
    """The dataset with the frames of its chunks, of which the heads are read.

    Raises:
        CorruptDataError: a head is damaged, or says other counts than the index.
    """
    groups: list[tuple[int, int, int, int]] = []
    raws: list[Ids] = []
    ends: list[Ids] = []
    read = in_parallel(
        lambda pair: _head(Window.of(store, pair[0], 64 << 10), pair[1]),
        zip(dataset.objects, dataset.counts.tolist(), strict=True),
    )
    for place, (found, offsets) in enumerate(read):
        groups += [
            (place, rows, start, start + packed) for _, rows, start, packed, _ in found.tolist()
        ]
        raws.append(found["raw"].astype(np.int64))
        # Where each item ends in its own frame.
        firsts = np.repeat(offsets[found["first"]], found["rows"])
        ends.append(offsets[1:] - firsts)
    empty = np.empty(0, dtype=np.int64)
    arrays = {
        **group_arrays(groups),
        "frame_bytes": np.concatenate([empty, *raws]),
        "item_ends": np.concatenate([empty, *ends]),
    }
    return replace(dataset, arrays=arrays)


def open_frames(dataset: Dataset, access: Access, item: Callable[[memoryview], Record]) -> Records:
    """Its records; `item` decodes the bytes of one."""
    arrays = dataset.arrays
    unpack = frame_codec(dataset.url)
    lasts = np.cumsum(arrays["group_rows"])

    def decode(group: int) -> Rows:
        place, start, stop = (
            int(arrays[name][group]) for name in ("group_places", "group_starts", "group_stops")
        )
        url = dataset.objects[place].url
        body = access.read(Ranges.of([(place, start, stop)]))[0]
        size = int(arrays["frame_bytes"][group])
        try:
            raw = unpack(body, size)
        except ValueError as error:
            raise CorruptDataError(
                url, f"a frame at byte {start} that does not unpack ({error})", "zstd", RESTORE
            ) from error
        last = int(lasts[group])
        ends = arrays["item_ends"][last - int(arrays["group_rows"][group]) : last]
        return _Items(memoryview(raw), ends, item)

    return GroupRecords(dataset, access, decode)


def frame_codec(url: str) -> Callable[[Any, int], bytes]:
    """What unpacks a zstd frame to exactly so many bytes; -1: to what the frame itself says.

    It raises ValueError where the frame is damaged, or of another size.

    Raises:
        DataError: zstandard is not installed.
    """
    try:
        import zstandard
    except ImportError as error:
        raise DataError(
            f"{url}: found zstd data but no zstandard, needed it to unpack; run "
            "`pip install keepstep[zstd]`"
        ) from error

    def unpack(body: Any, size: int) -> bytes:
        try:
            said = zstandard.frame_content_size(body)
            # zstd cannot shrink more than this: a larger size is damage, not worth the memory.
            if not 0 <= said <= len(body) * _MOST_RATIO or size not in (-1, said):
                raise ValueError(f"{said} bytes in its head, needed {size}")
            raw: bytes = zstandard.ZstdDecompressor().decompress(body)
        except zstandard.ZstdError as error:
            raise ValueError(str(error)) from error
        return raw

    return unpack


class _Items:
    """The items of one frame, decoded when they are asked for."""

    def __init__(self, raw: memoryview, ends: Ids, item: Callable[[memoryview], Record]) -> None:
        self.nbytes = len(raw)
        self._raw = raw
        self._ends = ends
        self._item = item

    def __len__(self) -> int:
        return len(self._ends)

    def record(self, row: int) -> Record:
        start = int(self._ends[row - 1]) if row else 0
        return self._item(self._raw[start : int(self._ends[row])])


def _head(window: Window, count: int) -> tuple[Any, Ids]:
    """The frames of a chunk, and where its items begin and end in all of them unpacked."""
    head = window.at(0, _PREFIX.size)
    magic, version, _, items, _, number = _PREFIX.unpack(head)
    if magic != _MAGIC or version != 1 or items != count:
        said = f"{magic!r} of version {version} with {items} items"
        raise CorruptDataError(window.url, said, f"{_MAGIC!r} with {count} items", RESTORE)
    start = _PREFIX.size + 4 * (items + 1)
    words = window.at(_PREFIX.size, 4 * (items + 1))
    offsets = np.frombuffer(words, dtype="<u4").astype(np.int64)
    found = np.frombuffer(window.at(start, number * _FRAME.itemsize), dtype=_FRAME)
    rows = found["rows"].astype(np.int64)
    stops = found["start"].astype(np.float64) + found["packed"]
    is_wrong = (
        int(rows.sum()) != items
        or offsets[0] != 0
        or (np.diff(offsets) < 0).any()
        or not np.array_equal(found["first"], np.cumsum(rows) - rows)
        or (stops > window.size).any()
        or not np.array_equal(
            found["raw"], offsets[found["first"] + rows] - offsets[found["first"]]
        )
    )
    if is_wrong:
        raise CorruptDataError(
            window.url,
            "frames out of order or range",
            f"{items} items in {window.size} bytes",
            RESTORE,
        )
    return found, offsets
