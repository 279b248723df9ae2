"""A surveyed dataset in one file: safetensors' form, a JSON header and binary columns.

Nothing in it is unpickled; columns are mapped, so that a million objects open in the time it takes
to hash them. Version 2: extents of tokens are cut at blocks, and may overlap.
"""

import importlib.metadata
import json
import mmap
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from .dataset import Dataset
from .errors import CorruptDataError, DataError
from .store import Store
from .table import PACKINGS, DigestTable, ObjectTable, Strings

FORMAT = "keepstep-lock"
VERSION = 2
_DTYPES = {
    "BOOL": "?",
    "U8": "<u1",
    "U16": "<u2",
    "U32": "<u4",
    "U64": "<u8",
    "I8": "<i1",
    "I16": "<i2",
    "I32": "<i4",
    "I64": "<i8",
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
}
_NAMES = {np.dtype(code): name for name, code in _DTYPES.items()}
_REMEDY = "lock the dataset again, or restore the lock from a copy"
_ALIGNED = 64
HERE = "."
"""The URL of a lock that lies in the folder of its objects, wherever that is."""
Array = npt.NDArray[Any]


def write_lock(dataset: Dataset, path: Path, *, replace: bool = False) -> None:
    """Writes `path`, all of it or nothing. One that is there and says the same is left as it is.

    Names are relative to the dataset's URL, which is kept beside them.

    Raises:
        DataError: another lock is there, and `replace` is not set.
    """
    parts = _encode(dataset)
    if not replace and path.exists():
        if _written_digest(path) == _digest_of(parts[0]):
            return
        raise DataError(
            f"{path}: found another lock there, needed none or an equal one; give another path, or "
            "say that it is to be replaced"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        with draft.open("wb") as stream:
            for part in parts:
                stream.write(part)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def read_lock(path: Path | str, *, url: str | None = None, store: Store | None = None) -> Dataset:
    """The dataset that a lock describes, after its digest was checked.

    Args:
        path: a file, or with `store` any URL in it.
        url: where the dataset's folder lies now, if it was moved. Tags are of the place that was
            locked, so those of another are not known; sizes and digests still hold.

    Raises:
        DataError: there is no such file, or it is of another format or version.
        CorruptDataError: it is not what was written.
    """
    return parse_lock(
        _content(path) if store is None else _fetched(str(path), store), path, url=url
    )


def parse_lock(content: memoryview, path: Path | str, *, url: str | None = None) -> Dataset:
    """As `read_lock`, of bytes that were read already; `path` is where they lie."""
    header, body = _header(str(path), content)
    facts = _facts(str(path), header, body)
    arrays = {name: _array(str(path), entry, body) for name, entry in header.items()}
    try:
        said = _folder_of(path) if facts["url"] == HERE else facts["url"]
        table = _table(str(path), url or said, arrays, is_moved=url not in (None, said))
        digests = DigestTable(table.names, _strings(str(path), arrays, "digests"))
        dataset = Dataset(
            format=facts["format"],
            url=table.url,
            objects=table,
            counts=arrays.pop("counts"),
            facts=facts["facts"],
            digests=digests,
            extent_bytes=int(facts["extent_bytes"]),
            extent_overlap=int(facts["extent_overlap"]),
            extent_digests=arrays.pop("extent_digests", None),
            arrays={name.removeprefix("array."): array for name, array in arrays.items()},
        )
        _check(str(path), dataset, table)
    except (KeyError, TypeError) as error:
        raise CorruptDataError(path, f"no column {error}", "all columns", _REMEDY) from error
    return dataset


def _encode(dataset: Dataset) -> list[bytes | memoryview]:
    """The parts of the file, in order: its header, then each column."""
    table = ObjectTable.of(dataset.objects, dataset.url)
    digests = DigestTable.column(dataset.digests, table.names)
    columns: dict[str, Array] = {
        "names": table.names.content,
        "name_ends": table.names.ends,
        "tags": table.tags.content,
        "tag_ends": table.tags.ends,
        "digests": digests.content,
        "digest_ends": digests.ends,
        "sizes": table.sizes,
        "raw_sizes": table.raw_sizes,
        "packings": table.packings,
        "counts": dataset.counts,
        **{f"array.{name}": array for name, array in dataset.arrays.items()},
    }
    if dataset.extent_digests is not None:
        columns["extent_digests"] = dataset.extent_digests
    facts = {
        "format": dataset.format,
        "url": dataset.url,
        "facts": dataset.facts,
        "extent_bytes": dataset.extent_bytes,
        "extent_overlap": dataset.extent_overlap,
    }
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "created_by": f"keepstep {importlib.metadata.version('keepstep')}",
        "dataset": json.dumps(facts, sort_keys=True),
    }
    entries: dict[str, Any] = {}
    parts, end = [], 0
    # The widest first: then every column lies on a multiple of its own width.
    for name, array in sorted(columns.items(), key=lambda pair: (-pair[1].itemsize, pair[0])):
        plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        kind = _NAMES[np.dtype(plain.dtype.str)]
        entries[name] = {
            "dtype": kind,
            "shape": list(plain.shape),
            "data_offsets": [end, end + plain.nbytes],
        }
        parts.append(plain.reshape(-1).view(np.uint8).data if plain.size else memoryview(b""))
        end += plain.nbytes
    metadata["digest"] = _digest({"__metadata__": metadata, **entries}, parts)
    text = json.dumps({"__metadata__": metadata, **entries}, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % _ALIGNED)
    return [struct.pack("<Q", len(text)) + text, *parts]


def _digest(header: dict[str, Any], parts: list[memoryview]) -> str:
    """xxh3-128 over the header without the digest itself, and the columns."""
    said = {key: value for key, value in header["__metadata__"].items() if key != "digest"}
    state = xxhash.xxh3_128(json.dumps({**header, "__metadata__": said}, sort_keys=True).encode())
    for part in parts:
        state.update(part)
    return f"xxh3_128:{state.hexdigest()}"


def _digest_of(head: bytes | memoryview) -> str:
    return str(json.loads(bytes(head[8:]))["__metadata__"]["digest"])


def _written_digest(path: Path) -> str | None:
    """The digest in the lock at `path`; None where it is no whole lock."""
    try:
        header, body = _header(str(path), _content(path))
        digest = str(header["__metadata__"]["digest"])
        _facts(str(path), header, body)
    except (CorruptDataError, DataError, KeyError):
        return None
    return digest


def _content(path: Path | str) -> memoryview:
    try:
        with Path(path).open("rb") as stream:
            return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: found no such file, needed a lock; run `keepstep data lock` or correct the "
            "path"
        ) from error
    except (OSError, ValueError) as error:
        raise CorruptDataError(path, f"no readable file ({error})", "a lock", _REMEDY) from error


def _fetched(url: str, store: Store) -> memoryview:
    return memoryview(store.content(url))


def _header(path: str, content: memoryview) -> tuple[dict[str, Any], memoryview]:
    length = struct.unpack("<Q", content[:8])[0] if len(content) >= 8 else 0
    try:
        header = json.loads(bytes(content[8 : 8 + length])) if length <= len(content) - 8 else None
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict) or not isinstance(header.get("__metadata__"), dict):
        raise CorruptDataError(path, "no header", "a lock", _REMEDY)
    return header, content[8 + length :]


def _facts(path: str, header: dict[str, Any], body: memoryview) -> Any:
    """What the header says of the dataset, after the digest over everything was checked."""
    said = header["__metadata__"]
    if (said.get("format"), said.get("version")) != (FORMAT, str(VERSION)):
        raise DataError(
            f"{path}: found format and version {(said.get('format'), said.get('version'))}, needed "
            f"{(FORMAT, str(VERSION))}; lock the dataset again with this release"
        )
    found = _digest(header, [body])
    if found != said.get("digest"):
        raise CorruptDataError(path, f"content of digest {found}", f"{said.get('digest')}", _REMEDY)
    del header["__metadata__"]
    try:
        facts = json.loads(said["dataset"])
        words = ("format", "url", "facts", "extent_bytes", "extent_overlap")
        return {name: facts[name] for name in words}
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptDataError(path, f"no dataset ({error})", "a lock", _REMEDY) from error


def _array(path: str, entry: Any, body: memoryview) -> Array:
    try:
        dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), tuple(entry["shape"])
        start, stop = entry["data_offsets"]
        if not 0 <= start <= stop <= len(body):
            raise ValueError(f"bytes {start} to {stop} of {len(body)}")
        return np.frombuffer(body[start:stop], dtype=dtype).reshape(shape)
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptDataError(path, f"a damaged column ({error})", "a lock", _REMEDY) from error


def _strings(path: str, arrays: dict[str, Array], name: str) -> Strings:
    content, ends = arrays.pop(name), arrays.pop(f"{name[:-1]}_ends")
    last = int(ends[-1]) if len(ends) else 0
    if (np.diff(ends, prepend=0) < 0).any() or last != len(content):
        raise CorruptDataError(path, f"{name} that do not fit", f"{last} bytes", _REMEDY)
    return Strings(content, ends)


def _folder_of(path: Path | str) -> str:
    """The URL of the folder that a lock lies in."""
    if isinstance(path, str) and "://" in path:
        return path.rpartition("/")[0]
    return str(Path(path).expanduser().absolute().parent)


def _table(path: str, url: str, arrays: dict[str, Array], *, is_moved: bool) -> ObjectTable:
    names, tags = (_strings(path, arrays, name) for name in ("names", "tags"))
    if is_moved:
        tags = Strings.of("" for _ in names.ends)
    return ObjectTable(
        url.rstrip("/"),
        names=names,
        tags=tags,
        sizes=arrays.pop("sizes"),
        raw_sizes=arrays.pop("raw_sizes"),
        packings=arrays.pop("packings"),
    )


def _check(path: str, dataset: Dataset, table: ObjectTable) -> None:
    """Raises CorruptDataError where columns do not fit one another, whoever wrote them."""
    size = len(table.sizes)
    columns = (table.raw_sizes, table.packings, table.names.ends, table.tags.ends, dataset.counts)
    extents = dataset.extent_digests
    is_wrong = any(column.shape != (size,) for column in columns)
    is_wrong = is_wrong or bool((table.sizes < 0).any() or (dataset.counts < 0).any())
    is_wrong = is_wrong or bool((table.packings >= len(PACKINGS)).any())
    if extents is not None:
        wrong_bytes = extents.dtype != np.uint8 or extents.shape[1:] not in ((16,), (32,))
        is_wrong = is_wrong or wrong_bytes or dataset.extent_bytes < 1
        is_wrong = is_wrong or not 0 <= dataset.extent_overlap < dataset.extent_bytes
    if is_wrong:
        raise CorruptDataError(path, "columns that do not fit", f"{size} objects", _REMEDY)
