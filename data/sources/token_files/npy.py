"""Shards of token ids as .npy files: keepstep's own with their manifest, and folders without."""

import re
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO

import numpy as np
import numpy.typing as npt
import xxhash
from numpy.lib import format as npy

from ...dataset import Dataset
from ...errors import CorruptDataError, DataError
from ...manifest import MANIFEST, FileFacts, parse_manifest
from ...store import Store, StoredObject
from ..listing import RESTORE, Listing
from ..pieces import in_parallel
from .documents import with_documents

_HEAD_BYTES = 4096
_HEADER = re.compile(
    rb"\{'descr': '(?P<descr>[ -&(-~]{1,40})', 'fortran_order': (True|False), "
    rb"'shape': \((?P<shape>[0-9, ]{0,200})\), \}\s*"
)


def survey(store: Store, url: str, *, end_token: int | None = None) -> Dataset:
    """Reads the headers of every .npy object below `url`: one-dimensional, of one integer type.

    With `end_token` every byte is read, to find the documents.

    Raises:
        DataError: there is none, or one is of another shape or type.
        CorruptDataError: a header is damaged, or says another size than the object has.
    """
    listing = Listing.of(store, url)
    objects = listing.ending(".npy")
    if not objects:
        raise DataError(f"{url}: found no .npy objects, needed at least one; correct the URL")
    dataset = _dataset(store, listing, objects, "npy", {})
    return with_documents(store, dataset, end_token)


def survey_prepared(
    store: Store, url: str, *, split: str | None = None, end_token: int | None = None
) -> Dataset:
    """Reads the manifest of a folder that `keepstep data prepare` wrote, its shards' headers, and
    where documents begin, if it says so; else, with `end_token`, every byte to find that out.

    Raises:
        DataError: no manifest, or no such split; None is "train".
        CorruptDataError: the manifest or a header is damaged, or a shard is missing or of another
            size.
    """
    listing = Listing.of(store, url)
    found = listing.objects.get(MANIFEST)
    if found is None:
        raise DataError(f"{url}: found no {MANIFEST}, needed it; give the folder that holds it")
    manifest = parse_manifest(bytes(store.read(found, 0, found.size)), found.url)
    split = split or "train"
    if split not in manifest.splits:
        raise DataError(
            f"{url}: found splits {', '.join(manifest.splits)}, needed {split!r}; ask for one of "
            "them"
        )
    shards = manifest.splits[split].shards
    objects = [listing.need(shard.name, found.url) for shard in shards]
    for obj, shard in zip(objects, shards, strict=True):
        if obj.size != shard.bytes:
            raise CorruptDataError(obj.url, f"{obj.size} bytes", f"{shard.bytes} bytes", RESTORE)
    digests = {shard.name: f"xxh3_128:{shard.digest}" for shard in shards}
    dataset = _dataset(store, listing, objects, "tokens", digests)
    counts = [shard.tokens for shard in shards]
    if dataset.counts.tolist() != counts or dataset.facts.get("dtype", "") != (
        np.dtype(manifest.dtype).str if counts else ""
    ):
        raise CorruptDataError(
            url, f"{dataset.counts.sum()} tokens", f"{sum(counts)} of {manifest.dtype}", RESTORE
        )
    dataset.facts["end_token"] = manifest.end_token
    starts = manifest.splits[split].starts
    if starts is None or end_token not in (None, manifest.end_token):
        return with_documents(store, dataset, end_token)
    found_starts = _starts(store, listing.need(starts.name, found.url), starts)
    return replace(dataset, arrays={**dataset.arrays, "documents": found_starts})


def _starts(store: Store, obj: StoredObject, facts: FileFacts) -> npt.NDArray[np.int64]:
    """The first token of each document, from the file that keeps them."""
    content = bytes(store.read(obj, 0, obj.size))
    digest = xxhash.xxh3_128_hexdigest(content)
    if digest != facts.digest:
        raise CorruptDataError(obj.url, f"digest {digest}", f"digest {facts.digest}", RESTORE)
    found: npt.NDArray[np.int64] = np.load(BytesIO(content), allow_pickle=False)
    return found


def _dataset(
    store: Store,
    listing: Listing,
    objects: Sequence[StoredObject],
    format: str,
    digests: dict[str, str],
) -> Dataset:
    heads = in_parallel(lambda obj: _head(store, obj), objects)
    dtypes = sorted({dtype for _, _, dtype in heads})
    if len(dtypes) > 1:
        raise DataError(
            f"{listing.url}: found tokens of the types {', '.join(dtypes)}, needed one; give a "
            "folder of one type"
        )
    return Dataset(
        format=format,
        url=listing.url,
        objects=list(objects),
        counts=np.array([count for _, count, _ in heads], dtype=np.int64),
        facts={"dtype": dtypes[0]} if dtypes else {},
        arrays={"heads": np.array([head for head, _, _ in heads], dtype=np.int64)},
        digests=digests,
    )


def _head(store: Store, obj: StoredObject) -> tuple[int, int, str]:
    """The bytes of the header, the number of tokens and their type."""
    content = bytes(store.read(obj, 0, min(obj.size, _HEAD_BYTES)))
    width = 2 if content[6:7] == b"\x01" else 4
    start = 8 + width
    head = start + int.from_bytes(content[8:start], "little")
    # As every release of NumPy writes it: parsed as text, since it is no more than that.
    found = _HEADER.fullmatch(content[start:head])
    if not content.startswith(npy.MAGIC_PREFIX) or found is None:
        raise CorruptDataError(obj.url, "no .npy header", "a plain array of tokens", RESTORE)
    descr, shape = found["descr"].decode(), found["shape"].decode()
    sizes = [int(size) for size in shape.split(",") if size.strip()]
    if not re.fullmatch(r"[<>|][iu][1248]", descr) or len(sizes) != 1:
        raise DataError(
            f"{obj.url}: found type {descr!r} of shape ({shape}), needed one dimension of whole "
            "numbers; write the tokens as one flat array"
        )
    dtype = np.dtype(descr)
    if head + sizes[0] * dtype.itemsize != obj.size:
        raise CorruptDataError(
            obj.url, f"{obj.size} bytes", f"{sizes[0]} tokens of {dtype}", RESTORE
        )
    return head, sizes[0], str(dtype.str)
