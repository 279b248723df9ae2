"""litdata: index.json -> a Dataset of items or of token arrays, and the Records of items.

Four layouts of items: plain (or compressed as a whole), compressed one by one, compressed in
frames, and rows of an Arrow file at the chunk's end. Layouts: litdata/streaming/{writer,
item_loader,framed_zstd}.py.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from ...access import Access
from ...dataset import Dataset
from ...errors import CorruptDataError, DataError
from ...store import Store, StoredObject
from ..codecs.litdata import item_decoder, token_dtype
from ..listing import RESTORE, Listing, read_index, take, take_strings
from ..pieces import Window, in_parallel
from ..source import Record, Records
from ..token_files.documents import with_documents
from . import frames
from .arrow import HOP_BYTES, dataset_of, file_stream, open_arrow, read_stream
from .offsets import CountedHeaders, check_counted, header_offsets
from .sampled import SampleRecords

_ROWS_MAGIC = b"LDARW01\0"


def survey(store: Store, url: str, *, end_token: int | None = None) -> Dataset:
    """Reads index.json, lists the folder, and reads the heads or tails of chunks whose layout
    has a table there. The format is "litdata", or "litdata_tokens" where chunks hold tokens.

    Raises:
        DataError: no index, encrypted or pickled items, or another loader's chunks.
        CorruptDataError: the index is damaged, or a chunk is missing or of another size.
    """
    index, body = read_index(store, url)
    config = take(body, "config", dict, index)
    leaves = take_strings(config, "data_format", index)
    loader = config.get("item_loader") or "PyTreeLoader"
    if config.get("encryption") or loader not in ("PyTreeLoader", "TokensLoader"):
        found = "encrypted chunks" if config.get("encryption") else f"chunks of {loader}"
        raise DataError(
            f"{index}: found {found}, needed plain ones of PyTreeLoader or TokensLoader; write the "
            "data in that form, or give the URL of the Parquet files themselves"
        )
    layout = _layout(config, index)
    listing = Listing.of(store, url)
    chunks = take(body, "chunks", list, index)
    objects = [_chunk(chunk, layout, listing, index) for chunk in chunks]
    counts = np.array([take(chunk, "chunk_size", int, index) for chunk in chunks], np.int64)
    for obj, count in zip(objects, counts.tolist(), strict=True):
        check_counted(obj, count, index)
    if loader == "TokensLoader":
        dataset = _tokens(listing, objects, chunks, leaves, index)
        return with_documents(store, dataset, end_token)
    facts = {"layout": layout, "leaves": leaves, "spec": take(config, "data_spec", str, index)}
    dataset = Dataset(
        format="litdata", url=listing.url, objects=objects, counts=counts, facts=facts
    )
    if layout == "items" and config.get("types") and not any(obj.packing for obj in objects):
        dataset = _rows(store, dataset)
    if layout == "frames":
        dataset = frames.survey(store, dataset)
    if dataset.facts["layout"] != "rows":
        item_decoder(leaves, facts["spec"], index)
    return dataset


def open_litdata(dataset: Dataset, access: Access) -> Records:
    """Its records: a dict's by its keys, a list's or tuple's by "0", "1", ..., a leaf's by "item".

    Raises:
        DataError: leaves are pickled, or a package that the layout needs is not installed.
    """
    layout = dataset.facts["layout"]
    if layout == "rows":
        return open_arrow(dataset, access)
    item = item_decoder(dataset.facts["leaves"], dataset.facts["spec"], dataset.url)
    if layout == "frames":
        return frames.open_frames(dataset, access, item)
    unpack = frames.frame_codec(dataset.url) if layout == "zstd_items" else None

    def decode(place: int, body: memoryview) -> Record:
        return item(body if unpack is None else memoryview(unpack(body, -1)))

    offsets = header_offsets(dataset, CountedHeaders(dataset, access))
    return SampleRecords(dataset, access, offsets=offsets, decode=decode)


def _layout(config: dict[str, Any], index: str) -> str:
    compression = config.get("compression")
    if not compression:
        return "items"
    level = config.get("compression_level") or "chunk"
    layouts = {"chunk": "packed", "sample": "zstd_items", "batch": "frames"}
    if not str(compression).startswith("zstd") or level not in layouts:
        raise DataError(
            f"{index}: found the compression {str(compression)[:80]!r} of each {level!r}, needed "
            "zstd of chunk, batch or sample; write the data in that form"
        )
    return layouts[level]


def _chunk(body: Any, layout: str, listing: Listing, index: str) -> StoredObject:
    obj = listing.need(take(body, "filename", str, index), index)
    size = take(body, "chunk_bytes", int, index)
    if layout == "packed":
        return replace(obj, packing="zstd", raw_size=size)
    if obj.size != size:
        raise CorruptDataError(obj.url, f"{obj.size} bytes", f"{size} bytes by {index}", RESTORE)
    return obj


def _tokens(
    listing: Listing, objects: list[StoredObject], chunks: list[Any], leaves: list[str], index: str
) -> Dataset:
    """Chunks whose items are arrays of tokens, back to back after the header."""
    dtype = token_dtype(leaves[0] if len(leaves) == 1 else ", ".join(leaves), index)
    heads = [4 * (take(chunk, "chunk_size", int, index) + 2) for chunk in chunks]
    counts = [take(chunk, "dim", int, index) for chunk in chunks]
    for obj, head, count in zip(objects, heads, counts, strict=True):
        if head + count * np.dtype(dtype).itemsize != obj.raw_bytes:
            raise CorruptDataError(
                obj.url, f"{obj.raw_bytes} bytes", f"{count} tokens of {dtype} by {index}", RESTORE
            )
    return Dataset(
        format="litdata_tokens",
        url=listing.url,
        objects=objects,
        counts=np.array(counts, dtype=np.int64),
        facts={"dtype": dtype},
        arrays={"heads": np.array(heads, dtype=np.int64)},
    )


def _rows(store: Store, dataset: Dataset) -> Dataset:
    """The dataset with the batches of its chunks' Arrow files, where they have one at the end."""
    streams = in_parallel(
        lambda obj: read_stream(Window.of(store, obj, HOP_BYTES), _arrow_file), dataset.objects
    )
    with_rows = [stream for stream in streams if stream is not None]
    if not with_rows:
        return dataset
    if len(with_rows) != len(streams):
        raise DataError(
            f"{dataset.url}: found chunks with rows and chunks with items, needed one kind; write "
            "the data again"
        )
    found = dataset_of("litdata", dataset.url, list(dataset.objects), with_rows)
    if not np.array_equal(found.counts, dataset.counts):
        raise CorruptDataError(
            dataset.url,
            f"{found.counts.sum()} rows",
            f"{dataset.counts.sum()} by index.json",
            RESTORE,
        )
    return replace(found, facts={**found.facts, **dataset.facts, "layout": "rows"})


def _arrow_file(window: Window) -> tuple[int, int] | None:
    if window.size < 12 or window.at(window.size - 8, 8) != _ROWS_MAGIC:
        return None
    length = int.from_bytes(window.at(window.size - 12, 4), "little")
    if length > window.size - 12:
        raise CorruptDataError(
            window.url, f"rows of {length} bytes", f"fewer than {window.size}", RESTORE
        )
    return file_stream(window, window.size - 12 - length, window.size - 12)
