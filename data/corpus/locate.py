"""A URL -> what is known of the dataset there: from its lock, or surveyed once and then kept."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import xxhash

from ..access import STRONG, algorithm_of
from ..config import DataFormat
from ..dataset import Dataset
from ..errors import CorruptDataError, DataError, MissingError
from ..lock import lock, object_digests
from ..lockfile import parse_lock, read_lock, write_lock
from ..seal import SUFFIX, verify_lock
from ..sources.detect import detect
from ..sources.listing import base_url
from ..store import Store
from ..table import join

LOCK = "keepstep.lock"
Report = Callable[[str], None]
# What `prepare` turns into tokens; in any other format tokens or records are read as they lie.
_TEXT = (DataFormat.text, DataFormat.jsonl, DataFormat.parquet)


def locate(
    url: str,
    store: Store,
    *,
    format: DataFormat = DataFormat.auto,
    split: str | None = None,
    dtype: str | None = None,
    kept: Path,
    report: Report,
    key: Path | None = None,
) -> Dataset:
    """The dataset at `url`: a folder, an object, a pattern, or a lock's own URL.

    A lock in the folder (keepstep-<split>.lock or keepstep.lock) is taken; else the URL is listed,
    and what was found about the same listing before is taken from the folder `kept`, or found out
    and kept there.

    Args:
        key: a public key: only what a lock says that it has signed is taken.

    Raises:
        DataError: nothing of a known format is there, or nothing signed.
        CorruptDataError: an index or a lock is damaged.
    """
    found = locked(url, store, split=split, key=key)
    if key is not None:
        return _check_signed(found, url, store)
    if found is not None:
        return found
    if format is DataFormat.auto:
        format = detect(store, url, split=split)
    dtype = dtype if format is DataFormat.raw else None
    path = kept / f"{_listed(store, url, (format, split, dtype))}.lock"
    with contextlib.suppress(DataError, CorruptDataError):
        return read_lock(path)
    if "://" in url:
        report(f"looking at {url}")
    dataset = lock(url, store, format=format, split=split, dtype=dtype)
    write_lock(dataset, path, replace=True)
    return dataset


def locked(
    url: str, store: Store, *, split: str | None = None, key: Path | None = None
) -> Dataset | None:
    """What a lock says, where `url` is one or a folder that holds one; None where there is none.

    A lock named keepstep.lock or keepstep-<split>.lock speaks of the folder it lies in, wherever
    that was copied; any other one of the URL it was made for.

    Args:
        key: a public key that must have signed it.

    Raises:
        DataError: a signature is asked for, and there is none by that key.
    """
    if url.endswith(".lock"):
        folder, _, name = base_url(url).rpartition("/")
        moved = folder if name.startswith("keepstep") else None
        return _signed(url, store, moved, key)
    for name in (f"keepstep-{split}.lock", LOCK) if split else (LOCK,):
        with contextlib.suppress(MissingError):
            return _signed(join(base_url(url), name), store, base_url(url), key)
    return None


def _signed(url: str, store: Store, folder: str | None, key: Path | None) -> Dataset:
    content = store.content(url)
    if key is not None:
        signature = None
        with contextlib.suppress(MissingError):
            signature = store.content(url + SUFFIX)
        verify_lock(content, signature, key, name=url)
    return parse_lock(memoryview(content), url, url=folder)


def _check_signed(found: Dataset | None, url: str, store: Store) -> Dataset:
    """What a signed lock must have: digests, by which what comes in is checked. Files of this
    machine, which are mapped as they are, are checked here and now."""
    table = None if found is None else found.extent_digests
    if found is None or table is None or algorithm_of(table) != STRONG:
        what = "a lock whose digests can be forged" if table is not None else "no lock with digests"
        raise DataError(
            f"{url}: found {what}, needed a signed one with SHA-256 digests for "
            "data.require_signed; run `keepstep data lock --sign KEY`"
        )
    if "://" not in found.url:
        for obj in found.objects:
            whole = f"{STRONG}:{object_digests(store, obj, algorithm=STRONG)[0]}"
            if whole != (needed := found.digests[found.name(obj)]):
                raise CorruptDataError(obj.url, whole, needed)
    return found


def text_at(url: str, store: Store, format: DataFormat) -> bool:
    """Whether what lies at `url` is text that has to become tokens first."""
    if format is not DataFormat.auto:
        return format in _TEXT
    try:
        return detect(store, url) in _TEXT
    except (DataError, MissingError):  # what is no text either is refused where it is read
        return True


def _listed(store: Store, url: str, settings: tuple[object, ...]) -> str:
    """A digest of what the store lists there now."""
    state = xxhash.xxh3_128(repr((base_url(url), settings)).encode())
    if "{" not in url:
        for obj in store.list(base_url(url)):
            state.update(f"{obj.url} {obj.size} {obj.tag}\n".encode())
    return str(state.hexdigest())
