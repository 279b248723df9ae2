"""WebDataset: tar archives whose members with one key, up to the first dot, are one sample.

A record holds each member's bytes by its extension, and "__key__". Where samples lie comes from
Energon's X.tar.idx files; where there are none, from one pass over the archive's headers, put off
to the first use of each archive where a wids index counts the samples.
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ...access import Access, Ranges
from ...access.packing import packing_of
from ...dataset import Dataset
from ...errors import CorruptDataError, DataError
from ...store import Store, StoredObject
from ...table import relative
from ..codecs import tar
from ..listing import RESTORE, Listing, base_url, read_json, take
from ..pieces import PIECE_BYTES, Window, in_parallel, pieces
from ..source import Ids, Record, Records
from .offsets import KnownOffsets, Offsets, header_offsets
from .sampled import SampleRecords

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.zst")
_MOST_URLS = 1_000_000


def survey(store: Store, url: str) -> Dataset:
    """Lists the archives of a folder, a pattern like "x-{000000..000123}.tar", or a wids index.

    Raises:
        DataError: there is none, or an index names one outside of its folder.
        CorruptDataError: an archive or an index is damaged, or they differ.
    """
    listing, tars, counts = _archives(store, url)
    if not tars:
        raise DataError(f"{url}: found no .tar objects, needed at least one; correct the URL")
    indexes = [listing.objects.get(f"{listing.name(obj)}.idx") for obj in tars]
    if counts is not None and not all(indexes):
        return _dataset(listing, tars, np.array(counts, dtype=np.int64), None)
    found = in_parallel(lambda pair: _indexed(store, *pair), zip(tars, indexes, strict=True))
    sizes = np.array([len(offsets) - 1 for _, offsets in found], dtype=np.int64)
    for (obj, _), size, count in zip(found, sizes.tolist(), counts or sizes.tolist(), strict=True):
        if size != count:
            raise CorruptDataError(obj.url, f"{size} samples", f"{count} by {url}", RESTORE)
    offsets = np.concatenate([offsets for _, offsets in found])
    return _dataset(listing, [obj for obj, _ in found], sizes, offsets)


def _dataset(
    listing: Listing, tars: list[StoredObject], counts: Ids, offsets: Ids | None
) -> Dataset:
    return Dataset(
        format="webdataset",
        url=listing.url,
        objects=tars,
        counts=counts,
        arrays={} if offsets is None else {"offsets": offsets},
    )


def open_webdataset(dataset: Dataset, access: Access) -> Records:
    """Its records: bytes by extension, and "__key__"."""
    offsets: Offsets = (
        KnownOffsets(dataset)
        if "offsets" in dataset.arrays
        else header_offsets(dataset, _TarHeaders(dataset, access))
    )
    return SampleRecords(dataset, access, offsets=offsets, decode=lambda _, body: _sample(body))


def _indexed(
    store: Store, obj: StoredObject, index: StoredObject | None
) -> tuple[StoredObject, Ids]:
    """An archive with its unpacked size, and where its samples lie, by its index or by a pass."""
    if not obj.packing:
        content = Window.of(store, obj)
    else:
        # Headers lie anywhere in what is unpacked, so all of it is held once.
        raw = b"".join(pieces(store, obj))
        obj = replace(obj, raw_size=len(raw))
        content = Window(lambda start, stop: raw[start:stop], len(raw), obj.url)
    return obj, _offsets(content) if index is None else _energon(store, obj, index)


def braces(url: str) -> list[str]:
    """The URLs that a pattern stands for: {a,b} and {00..12}, as webdataset writes them.

    Raises:
        DataError: more than a million.
    """
    parts = re.split(r"(\{[^{}]*\})", url)
    choices = [_choices(part, url) for part in parts]
    total = 1
    for choice in choices:
        total *= len(choice)
    if total > _MOST_URLS:
        raise DataError(
            f"{url}: found {total} URLs, needed at most {_MOST_URLS}; split the pattern"
        )
    return ["".join(words) for words in itertools.product(*choices)]


class _Archives(NamedTuple):
    listing: Listing
    tars: list[StoredObject]
    counts: list[int] | None


def _archives(store: Store, url: str) -> _Archives:
    if url.endswith(".json"):
        return _wids(store, url)
    if "{" in url:
        listing = Listing.of(store, base_url(url[: url.index("{")] + "x").rpartition("/")[0])
        names = [relative(base_url(one), listing.url) for one in braces(url)]
        return _Archives(listing, [_packed(listing.need(name, url)) for name in names], None)
    listing = Listing.of(store, url)
    for obj in listing.ending(".json"):
        if "/" not in listing.name(obj) and is_wids(store, obj):
            return _wids(store, obj.url)
    return _Archives(listing, [_packed(obj) for obj in listing.ending(*SUFFIXES)], None)


def is_wids(store: Store, obj: StoredObject) -> bool:
    """Whether a JSON object is an index of archives by its first bytes."""
    return b"wids-shard-index" in bytes(store.read(obj, 0, min(obj.size, 4096)))


def _packed(obj: StoredObject) -> StoredObject:
    packing = "gzip" if obj.url.lower().endswith(".tgz") else packing_of(obj.url)
    return replace(obj, packing=packing)


def _wids(store: Store, url: str) -> _Archives:
    index = store.stat(base_url(url))
    body = read_json(store, index)
    if body.get("wids_version") != 1 or body.get("__kind__") != "wids-shard-index-v1":
        raise DataError(
            f"{url}: found {body.get('__kind__')!r} of version {body.get('wids_version')!r}, "
            "needed wids-shard-index-v1; make the index again"
        )
    listing = Listing.of(store, index.url.rpartition("/")[0])
    if body.get("base_path"):
        raise DataError(
            f"{url}: found base_path {str(body['base_path'])[:80]!r}, needed archives named "
            "relative to their index; lay the index beside its archives without base_path"
        )
    tars, counts = [], []
    for shard in take(body, "shardlist", list, url):
        obj = listing.need(take(shard, "url", str, url), url)
        size = shard.get("filesize", obj.size)
        if obj.size != size:
            raise CorruptDataError(obj.url, f"{obj.size} bytes", f"{size} by {url}", RESTORE)
        tars.append(_packed(obj))
        counts.append(take(shard, "nsamples", int, url))
        if not tars[-1].packing and obj.size < counts[-1] * tar.BLOCK:
            raise CorruptDataError(
                obj.url, f"{obj.size} bytes", f"{counts[-1]} samples by {url}", RESTORE
            )
    is_packed = any(obj.packing for obj in tars)
    return _Archives(listing, tars, None if is_packed else counts)


def _energon(store: Store, obj: StoredObject, index: StoredObject) -> Ids:
    words = np.frombuffer(bytes(store.read(index, 0, index.size // 8 * 8)), dtype="<u8")
    offsets = words.astype(np.int64)
    is_wrong = index.size % 8 or not len(words) or (np.diff(offsets) <= 0).any()
    if is_wrong or int(words.max()) > obj.raw_bytes or offsets[0] < 0:
        raise CorruptDataError(
            index.url, "offsets out of order or range", f"ascending ones in {obj.url}", RESTORE
        )
    return offsets


def _offsets(content: Window) -> Ids:
    starts: list[int] = []
    end, last = 0, None
    try:
        for member in tar.members(content):
            name = tar.key_of(member.name)
            if name is not None and name[0] != last:
                starts.append(member.first)
                last = name[0]
            end = member.end
    except ValueError as error:
        raise CorruptDataError(content.url, str(error), "a tar archive", RESTORE) from error
    return np.array([*starts, end], dtype=np.int64)


class _TarHeaders:
    """Offsets by a pass over an archive at its first use."""

    def __init__(self, dataset: Dataset, access: Access) -> None:
        self._dataset = dataset
        self._access = access

    def where(self, place: int) -> tuple[int, int, int]:
        return place, 0, self._dataset.objects[place].raw_bytes

    def load(self, places: Sequence[int]) -> list[Ids]:
        return [self._load(place) for place in places]

    def _load(self, place: int) -> Ids:
        obj, count = self._dataset.objects[place], int(self._dataset.counts[place])

        def read(start: int, stop: int) -> Any:
            return self._access.read(Ranges.of([(place, start, stop)]))[0]

        offsets = _offsets(Window(read, obj.raw_bytes, obj.url, PIECE_BYTES))
        if len(offsets) != count + 1:
            raise CorruptDataError(
                obj.url, f"{len(offsets) - 1} samples", f"{count} by its index", RESTORE
            )
        return offsets


class _Bytes:
    """The bytes of one sample as a tar archive of its own."""

    def __init__(self, body: memoryview) -> None:
        self.body = body
        self.size = len(body)

    def at(self, start: int, length: int) -> bytes:
        if start + length > self.size:
            raise ValueError(f"an end at byte {self.size}")
        return bytes(self.body[start : start + length])


def _sample(body: memoryview) -> Record:
    record: Record = {}
    for member in tar.members(_Bytes(body)):
        name = tar.key_of(member.name)
        if name is None:
            continue
        key, extension = name
        if record.setdefault("__key__", key) != key:
            raise ValueError(f"members of {record['__key__']!r} and {key!r} in one sample")
        if extension in record:
            raise ValueError(f"two members {extension!r} of {key!r}")
        record[extension] = bytes(body[member.start : member.stop])
    if not record:
        raise ValueError("no member that belongs to a sample")
    return record


def _choices(part: str, url: str) -> list[str]:
    if not part.startswith("{"):
        return [part]
    span = re.fullmatch(r"\{(\d+)\.\.(\d+)\}", part)
    if span is None:
        return part[1:-1].split(",")
    first, last = int(span.group(1)), int(span.group(2))
    if abs(last - first) >= _MOST_URLS:
        raise DataError(
            f"{url}: found a range of {abs(last - first) + 1} URLs, needed at most {_MOST_URLS}; "
            "split the pattern"
        )
    is_padded = any(len(word) > 1 and word.startswith("0") for word in span.groups())
    zeros = max(map(len, span.groups())) if is_padded else 0
    step = 1 if first <= last else -1
    return [f"{number:0{zeros}d}" for number in range(first, last + step, step)]
