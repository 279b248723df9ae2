"""Which format lies at a URL: by manifests and indexes first, then by suffixes, then by magic."""

from numpy.lib import format as npy

from ..config import DataFormat
from ..errors import DataError, MissingError
from ..manifest import FORMAT, MANIFEST
from ..store import Store, StoredObject
from .listing import Listing, base_url, read_json
from .records import arrow, jsonl, parquet, webdataset

_SUFFIXES = {
    DataFormat.webdataset: webdataset.SUFFIXES,
    DataFormat.megatron: (".idx",),
    DataFormat.npy: (".npy",),
    DataFormat.parquet: parquet.SUFFIXES,
    DataFormat.arrow: arrow.SUFFIXES,
    DataFormat.jsonl: (*jsonl.SUFFIXES, *jsonl.PACKED),
}


def detect(store: Store, url: str, *, split: str | None = None) -> DataFormat:
    """The format of what lies at `url`, which may be a folder, a file, or a pattern.

    Raises:
        DataError: nothing there is of a known format, or things are of several.
    """
    if "{" in url:
        return DataFormat.webdataset
    try:
        listing = Listing.of(store, url)
    except DataError:
        if all(_is_there(store, base_url(url) + suffix) for suffix in (".bin", ".idx")):
            return DataFormat.megatron
        raise
    indexes = {DataFormat.tokens: MANIFEST, DataFormat.mds: "index.json"}
    for name in indexes.values():
        place = f"{split}/{name}" if split and f"{split}/{name}" in listing.objects else name
        found = _by_index(store, listing.objects[place]) if place in listing.objects else None
        if found is not None:
            return found
    return _by_suffix(store, url, listing)


def _by_index(store: Store, obj: StoredObject) -> DataFormat | None:
    body = read_json(store, obj)
    if body.get("format") == FORMAT:
        return DataFormat.tokens
    if "shards" in body:
        return DataFormat.mds
    config = body.get("config")
    if "chunks" in body and isinstance(config, dict):
        is_tokens = config.get("item_loader") == "TokensLoader"
        return DataFormat.litdata_tokens if is_tokens else DataFormat.litdata
    return None


def _by_suffix(store: Store, url: str, listing: Listing) -> DataFormat:
    found = {kind: listing.ending(*suffixes) for kind, suffixes in _SUFFIXES.items()}
    # Energon's X.tar.idx are no index of Megatron's.
    found[DataFormat.megatron] = [
        obj for obj in found[DataFormat.megatron] if not obj.url.endswith(".tar.idx")
    ]
    kinds = [kind for kind, objects in found.items() if objects]
    if not kinds and any(webdataset.is_wids(store, obj) for obj in listing.ending(".json")):
        return DataFormat.webdataset
    if len(kinds) != 1:
        raise _unclear(url, kinds, listing)
    if kinds[0] is DataFormat.npy:
        # OLMo's arrays without a header bear this suffix too.
        first = found[kinds[0]][0]
        magic = bytes(store.read(first, 0, min(first.size, len(npy.MAGIC_PREFIX))))
        return DataFormat.npy if magic == npy.MAGIC_PREFIX else DataFormat.raw
    return kinds[0]


def _unclear(url: str, kinds: list[DataFormat], listing: Listing) -> DataError:
    splits = sorted({n.rpartition("/")[0] for n in listing.objects if n.endswith("/index.json")})
    if splits:
        names = ", ".join(splits[:8])
        return DataError(
            f"{url}: found no index but in {names}, needed one dataset; give one of "
            "these folders, or split="
        )
    return DataError(
        f"{url}: found {', '.join(kinds) or 'no data of a known format'}, needed one format; give "
        "the format, or a URL of one"
    )


def _is_there(store: Store, url: str) -> bool:
    try:
        store.stat(url)
    except MissingError:
        return False
    return True
