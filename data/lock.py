"""A URL -> everything a reader must know of the dataset there, without moving its bytes.

`lockfile` keeps the result in one file.
"""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import numpy as np
import xxhash

from .access import QUICK, Cut, ExtentMap, new_hash
from .config import DataFormat
from .dataset import Dataset
from .errors import CorruptDataError, DataError
from .sources.detect import detect
from .sources.records import arrow, jsonl, litdata, mds, parquet, webdataset
from .sources.token_files import megatron, npy, raw
from .store import Store, StoredObject

Progress = Callable[[int, int], None]
PIECE_BYTES = 8 << 20
_READERS = 8


def lock(
    url: str,
    store: Store,
    *,
    format: DataFormat = DataFormat.auto,
    split: str | None = None,
    dtype: str | None = None,
    end_token: int | None = None,
) -> Dataset:
    """Surveys what lies at `url`: reads indexes and headers, and the whole of an object only where
    it has no index (JSON lines, tar archives).

    Args:
        url: a folder, one object, or a pattern.
        store: where it lies; nothing is tried twice unless the store does it.
        format: how to read it; auto finds out.
        split: the sub-directory of MDS, or the split of keepstep's own shards.
        dtype: of tokens in arrays without a header, e.g. "uint16".
        end_token: ends a document in token arrays; finding them reads every byte.

    Raises:
        DataError: the format is unknown, or a setting is missing or does not belong to it.
        CorruptDataError: an index is damaged or does not fit the objects.
        StoreError: the store does not give what is asked for.
    """
    kind = detect(store, url, split=split) if format is DataFormat.auto else format
    _check_settings(kind, url, {"split": split, "dtype": dtype, "end_token": end_token})
    surveys: dict[DataFormat, Callable[[], Dataset]] = {
        DataFormat.mds: lambda: mds.survey(store, url, split=split),
        DataFormat.litdata: lambda: litdata.survey(store, url),
        DataFormat.litdata_tokens: lambda: litdata.survey(store, url, end_token=end_token),
        DataFormat.webdataset: lambda: webdataset.survey(store, url),
        DataFormat.parquet: lambda: parquet.survey(store, url),
        DataFormat.arrow: lambda: arrow.survey(store, url),
        DataFormat.jsonl: lambda: jsonl.survey(store, url),
        DataFormat.tokens: lambda: npy.survey_prepared(
            store, url, split=split, end_token=end_token
        ),
        DataFormat.npy: lambda: npy.survey(store, url, end_token=end_token),
        DataFormat.raw: lambda: raw.survey(store, url, dtype=dtype, end_token=end_token),
        DataFormat.megatron: lambda: megatron.survey(store, url),
    }
    if kind not in surveys:
        raise DataError(
            f"{url}: found the format {kind}, needed one of {', '.join(surveys)}; prepare the text "
            "first, or give another format"
        )
    return surveys[kind]()


def with_digests(
    dataset: Dataset,
    store: Store,
    *,
    sequence_length: int = 0,
    algorithm: str = QUICK,
    progress: Progress | None = None,
    resume: Path | None = None,
) -> Dataset:
    """Reads every byte, and records the digest of each object and of each of its extents, as the
    store holds them: what is fetched later is checked by these on arrival.

    A digest of md5, sha1 or xxh64 that the writer recorded is checked on the way.

    Args:
        sequence_length: of the samples that tokens will be read as, where it is no power of two:
            extents are then cut between samples, and none is fetched for two blocks' sake.
        algorithm: QUICK finds damage, STRONG also what somebody forged; locks are signed with it.
        progress: called with the bytes done and the bytes in all, from this thread.
        resume: a file that keeps what is done, so that it is not done again after a stop.

    Raises:
        CorruptDataError: an object is not what its writer recorded.
        StoreError: the store does not give what is asked for.
    """
    total = sum(obj.size for obj in dataset.objects)
    bare = replace(dataset, extent_digests=None)
    extent_map = ExtentMap(bare, Cut.of(bare, sequence_length=sequence_length))
    done = _Done(resume, extent_map, algorithm)
    digests, extents, count = dict(dataset.digests), [], 0

    def digest(numbered: tuple[int, StoredObject]) -> list[str]:
        place, obj = numbered
        name, ranges = dataset.name(obj), stored_ranges(extent_map, place, obj)
        known = done.known(name, place, obj)
        recorded = dataset.digests.get(name)
        return known or object_digests(store, obj, ranges, recorded=recorded, algorithm=algorithm)

    pool = ThreadPoolExecutor(_READERS, thread_name_prefix="digest")
    try:
        every = pool.map(digest, enumerate(dataset.objects))
        for place, (obj, found) in enumerate(zip(dataset.objects, every, strict=True)):
            name = dataset.name(obj)
            done.add(name, place, obj, found)
            digests[name] = f"{algorithm}:{found[0]}"
            extents += found[1:]
            count += obj.size
            if progress is not None:
                progress(count, total)
    finally:
        # After an interruption nobody waits for what was not begun.
        pool.shutdown(cancel_futures=True)
    width = new_hash(algorithm).digest_size
    table = np.frombuffer(bytes.fromhex("".join(extents)), dtype=np.uint8).reshape(-1, width)
    return replace(
        dataset,
        digests=digests,
        extent_bytes=extent_map.cut.size,
        extent_overlap=extent_map.cut.overlap,
        extent_digests=table,
    )


def object_digests(
    store: Store,
    obj: StoredObject,
    ranges: Sequence[tuple[int, int]] = (),
    *,
    recorded: str | None = None,
    algorithm: str = QUICK,
) -> list[str]:
    """The digest of an object's stored bytes and then of each of its `ranges` [start, stop),
    which ascend and may overlap, in hexadecimal, after checking `recorded`,
    "<algorithm>:<hexadecimal>", where its algorithm is known.

    Raises:
        CorruptDataError: it differs from what is recorded.
    """
    state, states = new_hash(algorithm), [new_hash(algorithm) for _ in ranges]
    first = 0
    name, _, needed = (recorded or "").partition(":")
    other = _hasher(name)
    for start in range(0, obj.size, PIECE_BYTES):
        piece = memoryview(store.read(obj, start, min(obj.size, start + PIECE_BYTES)))
        state.update(piece)
        while first < len(ranges) and ranges[first][1] <= start:
            first += 1
        for place in range(first, len(ranges)):
            low, high = ranges[place]
            if low >= start + len(piece):
                break
            states[place].update(piece[max(0, low - start) : high - start])
        if other is not None:
            other.update(piece)
    if other is not None and other.hexdigest() != needed:
        raise CorruptDataError(obj.url, f"{name} {other.hexdigest()}", f"{name} {needed}")
    return [str(one.hexdigest()) for one in (state, *states)]


def stored_ranges(extents: ExtentMap, place: int, obj: StoredObject) -> list[tuple[int, int]]:
    """The bytes of each extent of an object as the store holds them."""
    return [(0, obj.size)] if obj.packing else extents.ranges(place)


def _hasher(name: str) -> Any:
    import hashlib

    if name in ("md5", "sha1", "sha256"):
        return hashlib.new(name, usedforsecurity=False)
    known = {"xxh64": xxhash.xxh64, "xxh3_128": xxhash.xxh3_128, "xxh3_64": xxhash.xxh3_64}
    return known[name]() if name in known else None


def _check_settings(kind: DataFormat, url: str, settings: dict[str, object]) -> None:
    """Refuses a setting that the format does not know, rather than leave it unsaid."""
    takes = {
        "split": (DataFormat.mds, DataFormat.tokens),
        "dtype": (DataFormat.raw,),
        "end_token": (
            DataFormat.tokens,
            DataFormat.npy,
            DataFormat.raw,
            DataFormat.litdata_tokens,
        ),
    }
    for name, value in settings.items():
        if value is not None and kind not in takes[name]:
            raise DataError(
                f"{url}: found {name}={value!r} for data of the format {kind}, needed it for "
                f"{', '.join(takes[name])} alone; leave it out"
            )


@final
class _Done:
    """Digests by name, size, tag and how it is cut, in a file of one JSON list a line."""

    def __init__(self, path: Path | None, extents: ExtentMap, algorithm: str) -> None:
        self._path = path
        self._algorithm = algorithm
        self._extents = extents
        self._known: dict[str, list[str]] = {}
        if path is not None and path.exists():
            for line in path.read_text().splitlines():
                try:
                    *key, digests = json.loads(line)
                except ValueError:
                    # A stop in the middle of a line leaves half of it.
                    continue
                self._known[json.dumps(key)] = digests

    def known(self, name: str, place: int, obj: StoredObject) -> list[str] | None:
        return self._known.get(json.dumps(self._key(name, place, obj))) if obj.tag else None

    def add(self, name: str, place: int, obj: StoredObject, digests: list[str]) -> None:
        if self._path is None or self.known(name, place, obj) is not None:
            return
        with self._path.open("a") as stream:
            stream.write("\n" + json.dumps([*self._key(name, place, obj), digests]))

    def _key(self, name: str, place: int, obj: StoredObject) -> list[Any]:
        cut = [*self._extents.cut, self._extents.lead(place)]
        return [name, obj.size, obj.tag, cut, self._algorithm]
