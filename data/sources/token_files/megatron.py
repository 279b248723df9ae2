"""Megatron's pairs of .bin (token ids back to back) and .idx (lengths, pointers, documents).

Layout: megatron/core/datasets/indexed_dataset.py. Bytes are read by range from the .bin files; of
the .idx files nothing is kept but where documents begin.
"""

import struct
from typing import NamedTuple

import numpy as np

from ...dataset import Dataset
from ...errors import CorruptDataError, DataError
from ...store import Store, StoredObject
from ..listing import RESTORE, Listing, base_url, list_or_none
from ..pieces import in_parallel
from ..source import Ids

_MAGIC = b"MMIDIDX\x00\x00"
_HEAD = struct.Struct("<9sQBQQ")
_DTYPES = {1: "<u1", 2: "<i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}


def survey(store: Store, url: str) -> Dataset:
    """Reads the .idx of one pair (`url` is either file, or what both begin with) or of a folder's.

    Raises:
        DataError: no pair, tokens of several types, or of no whole numbers.
        CorruptDataError: an index is damaged, or does not fit its .bin.
    """
    listing, prefixes = _pairs(store, url)
    names = [(f"{prefix}.bin", f"{prefix}.idx") for prefix in prefixes]
    objects = [(listing.need(data, index), listing.objects[index]) for data, index in names]
    indexes = in_parallel(lambda pair: _index(store, pair[1], pair[0]), objects)
    pairs = [(data, index) for (data, _), index in zip(objects, indexes, strict=True)]
    dtypes = sorted({index.dtype for _, index in pairs})
    if len(dtypes) > 1:
        raise DataError(
            f"{url}: found tokens of the types {', '.join(dtypes)}, needed one; give pairs of one "
            "type"
        )
    counts = np.array([index.tokens for _, index in pairs], dtype=np.int64)
    bases = np.cumsum(counts) - counts
    documents = [index.documents + base for (_, index), base in zip(pairs, bases, strict=True)]
    return Dataset(
        format="megatron",
        url=listing.url,
        objects=[data for data, _ in pairs],
        counts=counts,
        facts={"dtype": dtypes[0]},
        arrays={
            "heads": np.zeros(len(pairs), dtype=np.int64),
            # A document without tokens begins where the next one does, and is none.
            "documents": np.unique(np.concatenate(documents)),
        },
    )


class _Index(NamedTuple):
    dtype: str
    tokens: int
    documents: Ids


def _pairs(store: Store, url: str) -> tuple[Listing, list[str]]:
    """The folder's listing, and what both names of each pair begin with."""
    base = base_url(url).removesuffix(".idx").removesuffix(".bin")
    found = [obj for obj in list_or_none(store, base) if obj.url.startswith(base + "/")]
    if found:
        listing = Listing(base, found)
        prefixes = [listing.name(obj)[: -len(".idx")] for obj in listing.ending(".idx")]
    else:
        listing = Listing.of(store, base.rpartition("/")[0])
        prefixes = [base.rpartition("/")[2]]
    if not prefixes or any(f"{prefix}.idx" not in listing.objects for prefix in prefixes):
        raise DataError(
            f"{url}: found no .idx there, needed a pair of .bin and .idx; give either file, what "
            "both begin with, or their folder"
        )
    return listing, prefixes


def _index(store: Store, obj: StoredObject, data: StoredObject) -> _Index:
    content = bytes(store.read(obj, 0, obj.size))
    if len(content) < _HEAD.size:
        _refuse(obj, f"{len(content)} bytes", f"a header of {_HEAD.size}")
    magic, version, code, sequences, documents = _HEAD.unpack_from(content)
    if magic != _MAGIC or version != 1:
        _refuse(obj, f"{magic!r} of version {version}", f"{_MAGIC!r} of version 1")
    if code not in _DTYPES:
        raise DataError(
            f"{obj.url}: found tokens of the type {code}, needed one of {sorted(_DTYPES)}, whole "
            "numbers; write them as whole numbers"
        )
    parts = sequences * 12 + documents * 8
    # One byte more a sequence where there are modes.
    if len(content) - _HEAD.size not in (parts, parts + sequences):
        _refuse(obj, f"{len(content)} bytes", f"{sequences} sequences and {documents} documents")
    lengths = np.frombuffer(content, "<i4", sequences, _HEAD.size).astype(np.int64)
    pointers = np.frombuffer(content, "<i8", sequences, _HEAD.size + 4 * sequences)
    firsts = np.frombuffer(content, "<i8", documents, _HEAD.size + 12 * sequences)
    width = np.dtype(_DTYPES[code]).itemsize
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    if (lengths < 0).any() or not np.array_equal(pointers, starts[:-1] * width):
        _refuse(obj, "pointers that differ from the lengths", "sequences back to back")
    if not documents or firsts[0] != 0 or firsts[-1] != sequences or (np.diff(firsts) < 0).any():
        _refuse(obj, "documents out of order", f"ascending ones from 0 to {sequences}")
    if data.size != starts[-1] * width:
        _refuse(data, f"{data.size} bytes", f"{starts[-1]} tokens of {width} bytes by its .idx")
    return _Index(_DTYPES[code], int(starts[-1]), _nonempty(starts[firsts]))


def _nonempty(edges: Ids) -> Ids:
    """The first tokens of documents between these edges that hold any."""
    return edges[:-1][np.diff(edges) > 0]


def _refuse(obj: StoredObject, found: str, needed: str) -> None:
    raise CorruptDataError(obj.url, found, needed, RESTORE)
