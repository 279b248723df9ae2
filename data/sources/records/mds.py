"""Mosaic Data Shards, version 2: index.json -> a Dataset, and its Records.

Shards of the kinds mds, json, csv, tsv and xsv, compressed as a whole or not, also below the
folder where an index was merged of several. Layout: mosaicml-streaming, streaming/base/format.
"""

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from ...access import Access
from ...dataset import Dataset
from ...errors import CorruptDataError, DataError
from ...store import Store, StoredObject
from ..codecs import mds as codec
from ..listing import RESTORE, Listing, base_url, read_index, take, take_strings
from ..source import FixedColumn, Record, Records
from .offsets import CountedHeaders, check_counted, header_offsets
from .sampled import SampleRecords

_PACKINGS = {"br": "br", "bz2": "bz2", "gz": "gzip", "snappy": "snappy", "zstd": "zstd"}
_TEXT = {"json", "csv", "tsv", "xsv"}


def survey(store: Store, url: str, *, split: str | None = None) -> Dataset:
    """Reads index.json of `url`, or of its sub-directory `split`, and lists the folder.

    Raises:
        DataError: no index, another version, pickled columns, or names that leave the folder.
        CorruptDataError: the index is damaged, or an object is missing or of another size.
    """
    folder = base_url(url) if not split else f"{base_url(url)}/{split}"
    index, body = read_index(store, folder)
    if body.get("version") != 2:
        raise DataError(
            f"{index}: found version {body.get('version')!r}, needed 2; write the data with a "
            "release of mosaicml-streaming of version 2"
        )
    listing = Listing.of(store, folder)
    shards = [_Shard(shard, index, listing) for shard in take(body, "shards", list, index)]
    schemas = sorted({json.dumps(shard.schema, sort_keys=True) for shard in shards})
    heads = [shard.head for shard in shards if shard.head is not None]
    dataset = Dataset(
        format="mds",
        url=listing.url,
        objects=[*(shard.data for shard in shards), *heads],
        counts=np.array([*(shard.count for shard in shards), *(0 for _ in heads)], np.int64),
        facts={"schemas": [json.loads(schema) for schema in schemas], "shards": len(shards)},
        arrays={
            "schemas": np.array(
                [schemas.index(json.dumps(s.schema, sort_keys=True)) for s in shards], np.int32
            ),
            "heads": _heads(shards),
        },
        digests={name: digest for shard in shards for name, digest in shard.digests.items()},
    )
    _decoders(dataset)
    return dataset


def open_mds(dataset: Dataset, access: Access) -> Records:
    """Its records, by column.

    Raises:
        DataError: a column is pickled or of an unknown encoding.
    """
    decoders = _decoders(dataset)
    which: list[int] = dataset.arrays["schemas"].tolist()
    heads = dataset.arrays["heads"].astype(np.int64)

    def decode(place: int, body: memoryview) -> Record:
        return decoders[which[place]](body)

    offsets = header_offsets(dataset, CountedHeaders(dataset, access, heads))
    return SampleRecords(
        dataset, access, offsets=offsets, decode=decode, layout=_layout(dataset.facts["schemas"])
    )


class _Shard:
    """One entry of the index, with the objects that it names."""

    def __init__(self, body: Any, index: str, listing: Listing) -> None:
        self.kind = take(body, "format", str, index)
        if self.kind != "mds" and self.kind not in _TEXT:
            raise DataError(
                f"{index}: found shards of the format {self.kind[:80]!r}, needed mds, json, csv, "
                "tsv or xsv; write the data in one of these"
            )
        self.count = take(body, "samples", int, index)
        self.schema = _schema(body, self.kind, index)
        self._listing = listing
        self._index = index
        self.digests: dict[str, str] = {}
        self.data = self._object(body, "data")
        self.head = None if self.kind == "mds" else self._object(body, "meta")
        check_counted(self.head or self.data, self.count, index)

    def _object(self, body: Any, part: str) -> StoredObject:
        raw = take(body, f"raw_{part}", dict, self._index)
        size = take(raw, "bytes", int, self._index)
        packed = body.get(f"zip_{part}")
        stored = raw if packed is None else take(body, f"zip_{part}", dict, self._index)
        obj = self._listing.need(take(stored, "basename", str, self._index), self._index)
        needed = take(stored, "bytes", int, self._index)
        if obj.size != needed:
            raise CorruptDataError(
                obj.url, f"{obj.size} bytes", f"{needed} bytes by {self._index}", RESTORE
            )
        for name, digest in sorted(dict(stored.get("hashes") or {}).items())[:1]:
            self.digests[obj.url.removeprefix(self._listing.url + "/")] = f"{name}:{digest}"
        if packed is None:
            return obj
        return StoredObject(obj.url, obj.size, obj.tag, self._packing(body), size)

    def _packing(self, body: Any) -> str:
        word = take(body, "compression", str, self._index).partition(":")[0]
        if word not in _PACKINGS:
            raise DataError(
                f"{self._index}: found the compression {word[:80]!r}, needed one of "
                f"{', '.join(_PACKINGS)}; write the data with one of these"
            )
        return _PACKINGS[word]


def _schema(body: Any, kind: str, index: str) -> dict[str, Any]:
    if kind == "json":
        return {"kind": kind}
    names = take_strings(body, "column_names", index)
    encodings = take_strings(body, "column_encodings", index)
    schema: dict[str, Any] = {"kind": kind, "names": names, "encodings": encodings}
    if kind == "mds":
        schema["sizes"] = take(body, "column_sizes", list, index)
        is_known = all(s is None or (type(s) is int and s >= 0) for s in schema["sizes"])
        if not is_known or not len(names) == len(encodings) == len(schema["sizes"]):
            raise CorruptDataError(
                index, f"columns of sizes {schema['sizes']}", "one for each column", RESTORE
            )
    else:
        if len(names) != len(encodings):
            raise CorruptDataError(
                index, f"{len(encodings)} encodings", f"{len(names)} for the columns", RESTORE
            )
        separators = {"csv": ",", "tsv": "\t"}
        schema["separator"] = separators.get(kind) or take(body, "separator", str, index)
        schema["newline"] = take(body, "newline", str, index)
    return schema


def _heads(shards: list[_Shard]) -> Any:
    """Where each shard's header lies: in itself, or in its .meta, which follow the shards."""
    metas = iter(range(len(shards), 2 * len(shards)))
    places = [own if shard.head is None else next(metas) for own, shard in enumerate(shards)]
    return np.array(places, dtype=np.int64)


def _layout(schemas: list[dict[str, Any]]) -> dict[str, FixedColumn] | None:
    """The columns of samples that are all of one size, where there is one kind of shards."""
    if len(schemas) != 1 or schemas[0]["kind"] != "mds":
        return None
    return codec.fixed_layout(*(schemas[0][key] for key in ("names", "encodings", "sizes")))


def _decoders(dataset: Dataset) -> list[Callable[[memoryview], Record]]:
    return [_decoder(schema, dataset.url) for schema in dataset.facts["schemas"]]


def _decoder(schema: dict[str, Any], where: str) -> Callable[[memoryview], Record]:
    if schema["kind"] == "json":
        return codec.json_decoder()
    names, encodings = schema["names"], schema["encodings"]
    if schema["kind"] == "mds":
        return codec.columns_decoder(names, encodings, schema["sizes"], where)
    separator, newline = schema["separator"], schema["newline"]
    return codec.separated_decoder(names, encodings, separator, newline, where)
