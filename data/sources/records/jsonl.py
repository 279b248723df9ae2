"""JSON lines, plain or compressed: one pass finds where each line begins; the index is kept.

An empty line is no record. What a line holds must be a JSON object.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ...access import Access
from ...access.packing import packing_of
from ...dataset import Dataset
from ...errors import DataError
from ...store import Store, StoredObject
from ..codecs.mds import json_decoder
from ..listing import Listing
from ..pieces import in_parallel, pieces
from ..source import Ids, Records
from .offsets import KnownOffsets
from .sampled import SampleRecords

SUFFIXES = (".jsonl", ".ndjson")
PACKED = tuple(s + packed for s in SUFFIXES for packed in (".gz", ".zst", ".zstd", ".bz2", ".xz"))
_FEW = 256
_INK = np.ones(256, dtype=np.bool_)
_INK[list(b" \t\r\n\f\v")] = False


def survey(store: Store, url: str) -> Dataset:
    """Reads every .jsonl and .ndjson object below `url` once, to find its lines.

    Raises:
        DataError: there is none.
    """
    listing = Listing.of(store, url)
    found = listing.ending(*SUFFIXES, *PACKED)
    if not found:
        raise DataError(
            f"{url}: found no .jsonl or .ndjson objects, needed at least one; correct the URL"
        )
    packed = [replace(obj, packing=packing_of(obj.url)) for obj in found]
    tables = in_parallel(lambda obj: line_offsets(store, obj), packed)
    objects = [
        replace(obj, raw_size=int(offsets[-1])) if obj.packing else obj
        for obj, offsets in zip(packed, tables, strict=True)
    ]
    return Dataset(
        format="jsonl",
        url=listing.url,
        objects=objects,
        counts=np.array([len(offsets) - 1 for offsets in tables], dtype=np.int64),
        arrays={"offsets": np.concatenate(tables)},
    )


def open_jsonl(dataset: Dataset, access: Access) -> Records:
    """Its records, by the fields of each line."""
    decode = json_decoder()
    return SampleRecords(
        dataset, access, offsets=KnownOffsets(dataset), decode=lambda _, body: decode(body)
    )


def line_offsets(store: Store, obj: StoredObject) -> Ids:
    """Where each line that holds more than spaces begins, in unpacked bytes, then their end."""
    starts: list[Ids] = []
    done, begin, is_open = 0, 0, False
    for piece in pieces(store, obj):
        content = np.frombuffer(piece, dtype=np.uint8)
        if not len(content):
            continue
        breaks = np.flatnonzero(content == ord("\n")) + 1
        ends_whole = len(breaks) > 0 and breaks[-1] == len(content)
        first = np.concatenate([np.zeros(1, np.int64), breaks[:-1] if ends_whole else breaks])
        is_full = _full(content, first)
        begins = first + done
        begins[0] = begin
        counted = is_full.copy()
        counted[0] &= not is_open
        starts.append(begins[counted])
        done += len(content)
        # The line that goes on in the next piece counts once, from where it began.
        is_open = not ends_whole and bool(is_full[-1] or (is_open and len(first) == 1))
        begin = done if ends_whole else int(begins[-1])
    return np.concatenate([*starts, np.array([done], dtype=np.int64)])


def _full(content: npt.NDArray[np.uint8], first: Ids) -> npt.NDArray[np.bool_]:
    """Whether each line, from `first` on, holds more than spaces: most show it at once."""
    is_full: npt.NDArray[np.bool_] = _INK[content[first]]
    unclear = np.flatnonzero(~is_full)
    if len(unclear) > _FEW:
        return np.logical_or.reduceat(_INK[content], first)
    for line in unclear.tolist():
        stop = int(first[line + 1]) if line + 1 < len(first) else len(content)
        is_full[line] = _INK[content[int(first[line]) : stop]].any()
    return is_full
