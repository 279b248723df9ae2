"""Parquet: row groups are what is read and decoded at once; footers say where they lie."""

import io
import struct
from typing import Any, NamedTuple, final

import numpy as np

from ...access import Access, Ranges
from ...dataset import Dataset
from ...errors import CorruptDataError, DataError
from ...store import Store, StoredObject
from ..codecs.columns import TableRows, check_names, import_arrow
from ..codecs.thrift import read_struct
from ..kept import Kept
from ..listing import RESTORE, Listing
from ..pieces import in_parallel
from ..source import Records
from .grouped import GroupRecords, Rows, group_arrays

SUFFIXES = (".parquet", ".pq")
_MAGIC = b"PAR1"
_TAIL_BYTES = 64 << 10
_FOOTERS_BYTES = 64 << 20


def survey(store: Store, url: str) -> Dataset:
    """Reads the footer of every .parquet object below `url`.

    Raises:
        DataError: there is none, one is encrypted, or their columns differ.
        CorruptDataError: a footer is damaged.
    """
    listing = Listing.of(store, url)
    objects = listing.ending(*SUFFIXES)
    if not objects:
        raise DataError(f"{url}: found no .parquet objects, needed at least one; correct the URL")
    footers = in_parallel(lambda obj: _read_footer(store, obj), objects)
    for obj, footer in zip(objects, footers, strict=True):
        check_names(footer.columns, footers[0].columns, obj.url)
    groups = [(place, *span) for place, footer in enumerate(footers) for span in footer.spans]
    table = group_arrays(groups)
    counts = np.bincount(table["group_places"], table["group_rows"], minlength=len(objects))
    return Dataset(
        format="parquet",
        url=listing.url,
        objects=objects,
        counts=counts.astype(np.int64),
        facts={"columns": footers[0].columns},
        arrays={**table, "footers": np.array([footer.start for footer in footers], dtype=np.int64)},
    )


def open_parquet(dataset: Dataset, access: Access) -> Records:
    """Its records, by column (see `TableRows` for the values).

    Raises:
        DataError: pyarrow is not installed.
    """
    return GroupRecords(dataset, access, _Decoder(dataset, access))


@final
class _Decoder:
    """Group -> its rows; footers are kept parsed."""

    def __init__(self, dataset: Dataset, access: Access) -> None:
        self._arrow = import_arrow(dataset.url)
        self._dataset = dataset
        self._access = access
        self._firsts = np.searchsorted(
            dataset.arrays["group_places"], np.arange(len(dataset.counts))
        )
        self._kept: Kept[int, Any] = Kept(_FOOTERS_BYTES, lambda facts: facts.serialized_size)

    def __call__(self, group: int) -> Rows:
        arrays = self._dataset.arrays
        place, start, stop = (
            int(arrays[name][group]) for name in ("group_places", "group_starts", "group_stops")
        )
        obj = self._dataset.objects[place]
        facts = self._kept.get(place, lambda: self._facts(place, obj))
        body = self._access.read(Ranges.of([(place, start, stop)]))[0]
        number = group - int(self._firsts[place])
        try:
            file = self._arrow.parquet.ParquetFile(
                self._arrow.PythonFile(_Part(body, start, obj.size), mode="r"),
                metadata=facts,
                page_checksum_verification=True,
            )
            table = file.read_row_group(number, use_threads=False)
        except (self._arrow.ArrowException, OSError, ValueError, MemoryError) as error:
            raise CorruptDataError(
                obj.url,
                f"row group {number} that does not decode ({error})",
                "Parquet data",
                RESTORE,
            ) from error
        return TableRows(table.combine_chunks())

    def _facts(self, place: int, obj: StoredObject) -> Any:
        start = int(self._dataset.arrays["footers"][place])
        body = self._access.read(Ranges.of([(place, start, obj.size)]))[0]
        return _parse(bytes(body), obj)


class _Part(io.RawIOBase):
    """A file of which only the bytes from `start` on are there: those of one row group."""

    def __init__(self, body: memoryview, start: int, size: int) -> None:
        super().__init__()
        self._body = body
        self._start = start
        self._size = size
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = 0) -> int:
        self._place = (0, self._place, self._size)[whence] + offset
        return self._place

    def read(self, size: int = -1) -> bytes:
        start = self._place - self._start
        stop = len(self._body) if size < 0 else start + size
        if start < 0 or stop > len(self._body):
            raise OSError(f"bytes {self._place} to {self._start + stop} lie outside of the group")
        self._place = self._start + stop
        return bytes(self._body[start:stop])


class _Footer(NamedTuple):
    start: int
    columns: list[str]
    spans: list[tuple[int, int, int]]


def _read_footer(store: Store, obj: StoredObject) -> _Footer:
    footer = _footer(store, obj)
    columns = list(_parse(footer, obj).schema.to_arrow_schema().names)
    return _Footer(obj.size - len(footer), columns, _spans(footer, obj))


def _footer(store: Store, obj: StoredObject) -> bytes:
    """The footer with its length and magic: what ends the object."""
    tail = bytes(store.read(obj, max(0, obj.size - _TAIL_BYTES), obj.size))
    if tail[-4:] == b"PARE":
        raise DataError(
            f"{obj.url}: found encrypted Parquet, needed it plain; decrypt it, or write it again"
        )
    length = struct.unpack("<I", tail[-8:-4])[0] + 8 if len(tail) >= 12 else 0
    if tail[-4:] != _MAGIC or not 8 < length <= obj.size - 4:
        raise CorruptDataError(obj.url, "no Parquet footer at its end", "one", RESTORE)
    return (
        tail[-length:]
        if length <= len(tail)
        else bytes(store.read(obj, obj.size - length, obj.size))
    )


def _parse(footer: bytes, obj: StoredObject) -> Any:
    arrow = import_arrow(obj.url)
    try:
        facts = arrow.parquet.read_metadata(arrow.BufferReader(_MAGIC + footer))
        facts.schema.to_arrow_schema()
    except (arrow.ArrowException, OSError, ValueError, MemoryError) as error:
        raise CorruptDataError(
            obj.url, f"a footer that does not decode ({error})", "Parquet data", RESTORE
        ) from error
    return facts


def _spans(footer: bytes, obj: StoredObject) -> list[tuple[int, int, int]]:
    """Rows and range of bytes of each row group: fields of parquet.thrift by their numbers."""
    try:
        facts = read_struct(footer)
        spans = [_span(group) for group in facts.get(4, [])]
        rows = int(facts[3])
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise CorruptDataError(
            obj.url, f"a footer that does not decode ({error!r})", "Parquet data", RESTORE
        ) from error
    if rows != sum(count for count, _, _ in spans):
        raise CorruptDataError(
            obj.url, f"{rows} rows in its footer", "as many as its row groups hold", RESTORE
        )
    for number, (count, start, stop) in enumerate(spans):
        if not 0 <= start <= stop <= obj.size or not 0 <= count < 2**40:
            raise CorruptDataError(
                obj.url,
                f"row group {number} of {count} rows in bytes {start} to {stop}",
                f"one inside its {obj.size} bytes",
                RESTORE,
            )
    return spans


def _span(group: dict[int, Any]) -> tuple[int, int, int]:
    starts, stops = [], []
    for column in group.get(1, []):
        if 1 in column or 3 not in column:
            raise ValueError("a column that lies in another file, or is encrypted")
        facts = column[3]
        # The dictionary, where there is one, lies before the pages.
        start = min(int(facts[9]), int(facts.get(11) or facts[9]))
        starts.append(start)
        stops.append(start + int(facts[7]))
    return int(group[3]), min(starts, default=4), max(stops, default=4)
