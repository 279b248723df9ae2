"""The manifest: what a checkpoint holds, as one line of canonical JSON that is its own proof.

Owns the record and its checks. Does not read or write files.
"""

import dataclasses
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .digest import digest_bytes
from .dtypes import BY_NAME, num_bytes
from .errors import CorruptError, VersionError
from .layout import Chunk

MANIFEST = "manifest.json"
FORMAT = "keepstep-checkpoint"
FORMAT_VERSION = 1
_FILE = re.compile(r"rank-\d{5}\.safetensors", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{32}", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry:
    """A shard file: its bytes, and the bytes and digest of its header, before the first tensor."""

    name: str
    bytes: int
    header_bytes: int
    header_digest: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkEntry:
    """A box and the bytes of `file` from `start` to `end` (exclusive) that hold it."""

    name: str
    dtype: str
    global_shape: tuple[int, ...]
    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    file: str
    start: int
    end: int
    digest: str

    @property
    def chunk(self) -> Chunk:
        return Chunk(
            name=self.name,
            dtype=self.dtype,
            global_shape=self.global_shape,
            offsets=self.offsets,
            shape=self.shape,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """One checkpoint. `created` is in unix seconds; `progress` and `lineage` are any JSON."""

    step: int
    attempt: str
    created: float
    topology: dict[str, int]
    progress: dict[str, Any]
    lineage: dict[str, Any]
    files: tuple[FileEntry, ...]
    chunks: tuple[ChunkEntry, ...]

    def by_name(self) -> dict[str, list[ChunkEntry]]:
        """The chunks of each tensor, names sorted."""
        found: dict[str, list[ChunkEntry]] = defaultdict(list)
        for entry in sorted(self.chunks, key=lambda entry: (entry.name, entry.offsets)):
            found[entry.name].append(entry)
        return dict(found)


def chunk_from(record: dict[str, Any]) -> ChunkEntry:
    """A chunk as JSON gives it, its lists made tuples again; nothing is checked."""
    boxes = {name: tuple(record[name]) for name in ("global_shape", "offsets", "shape")}
    return ChunkEntry(**{**record, **boxes})


def encode(manifest: Manifest) -> bytes:
    """The manifest as one line of JSON, its own digest in it.

    Raises:
        ValueError: if it could not be decoded again: boxes that leave a gap or overlap, names
            twice, values that JSON does not hold as they are.
    """
    record = {"format": FORMAT, "format_version": FORMAT_VERSION, **dataclasses.asdict(manifest)}
    record["digest"] = digest_bytes(_canonical(record))
    raw = _canonical(record)
    if decode(raw, path="(the manifest about to be written)") != manifest:
        raise ValueError(
            "The progress or lineage of a checkpoint holds values that JSON changes, but must "
            "come back as they are: use str keys, lists, numbers, strings, booleans and None."
        )
    return raw


def decode(raw: bytes, *, path: str) -> Manifest:
    """The manifest of the checkpoint `path`, proven byte by byte, and consistent in itself.

    Raises:
        CorruptError: if any byte was changed, or it contradicts itself.
        VersionError: if it is of an unknown format version.
    """
    try:
        record = json.loads(raw)
        digest = record.pop("digest")
        is_whole = digest == digest_bytes(_canonical(record))
        is_whole = is_whole and raw == _canonical({**record, "digest": digest})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CorruptError("is not a manifest", path=path, file=MANIFEST) from error
    if not is_whole:
        raise CorruptError("does not match its own digest", path=path, file=MANIFEST)
    if record.pop("format", None) != FORMAT:
        raise CorruptError("is not of a keepstep checkpoint", path=path, file=MANIFEST)
    version = record.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise VersionError(path, found=version, known=FORMAT_VERSION)
    try:
        manifest = _parse(record)
        _check(manifest)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CorruptError(f"contradicts itself: {error}", path=path, file=MANIFEST) from error
    return manifest


def _canonical(record: dict[str, Any]) -> bytes:
    return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _parse(record: dict[str, Any]) -> Manifest:
    _expect_fields(Manifest, record)
    files = tuple(_parse_file(entry) for entry in record.pop("files"))
    chunks = tuple(_parse_chunk(entry) for entry in record.pop("chunks"))
    manifest = Manifest(**record, files=files, chunks=chunks)
    _expect(_is_count(manifest.step), f"step is {manifest.step!r}")
    _expect(isinstance(manifest.attempt, str), f"attempt is {manifest.attempt!r}")
    _expect(isinstance(manifest.created, int | float), f"created is {manifest.created!r}")
    for name in ("topology", "progress", "lineage"):
        _expect(isinstance(getattr(manifest, name), dict), f"{name} is no object")
    _expect(all(map(_is_count, manifest.topology.values())), "topology holds more than counts")
    return manifest


def _parse_file(record: dict[str, Any]) -> FileEntry:
    _expect_fields(FileEntry, record)
    entry = FileEntry(**record)
    # The pattern is what keeps a name inside the checkpoint's folder.
    _expect(bool(_FILE.fullmatch(entry.name)), f"a file is named {entry.name!r}")
    _expect(_is_count(entry.bytes) and _is_count(entry.header_bytes), f"sizes of {entry.name}")
    _expect(bool(_DIGEST.fullmatch(entry.header_digest)), f"digest of {entry.name}")
    return entry


def _parse_chunk(record: dict[str, Any]) -> ChunkEntry:
    _expect_fields(ChunkEntry, record)
    entry = chunk_from(record)
    _expect(isinstance(entry.name, str), f"a tensor is named {entry.name!r}")
    numbers = (*entry.global_shape, *entry.offsets, *entry.shape)
    _expect(all(map(_is_count, numbers)), f"{entry.name} has a box that is none")
    _expect(entry.dtype in BY_NAME, f"{entry.name} has dtype {entry.dtype!r}")
    _expect(_is_count(entry.start) and _is_count(entry.end), f"byte range of {entry.name}")
    _expect(bool(_DIGEST.fullmatch(entry.digest)), f"digest of {entry.name}")
    return entry


def _check(manifest: Manifest) -> None:
    files = {entry.name: entry for entry in manifest.files}
    _expect(len(files) == len(manifest.files), "a file is listed twice")
    held: dict[str, list[ChunkEntry]] = {name: [] for name in files}
    for entry in manifest.chunks:
        _expect(entry.file in held, f"{entry.name} lies in the unlisted file {entry.file!r}")
        held[entry.file].append(entry)
        needed = num_bytes(entry.dtype, entry.shape)
        _expect(entry.end - entry.start == needed, f"{entry.name} has a byte range of another size")
    for name, entries in held.items():
        _check_ranges(files[name], entries)
    for entries in manifest.by_name().values():
        check_tiling([entry.chunk for entry in entries])


def _check_ranges(file: FileEntry, entries: Iterable[ChunkEntry]) -> None:
    """Refuses ranges that leave out or share a byte: a byte in no range would go unproven."""
    position = file.header_bytes
    for entry in sorted(entries, key=lambda entry: (entry.start, entry.end)):
        _expect(entry.start == position, f"byte {position} of {file.name} is in no or two tensors")
        position = entry.end
    _expect(position == file.bytes, f"{file.name} ends elsewhere than its last tensor")


def check_tiling(chunks: Sequence[Chunk]) -> None:
    """Refuses the boxes of one tensor (ValueError) unless each element is in exactly one."""
    first = chunks[0]
    for chunk in chunks:
        _expect(
            (chunk.dtype, chunk.global_shape) == (first.dtype, first.global_shape),
            f"{first.name} has two dtypes or shapes",
        )
        _expect(
            len(chunk.global_shape) == len(chunk.offsets) == len(chunk.shape)
            and all(
                offset + size <= whole
                for offset, size, whole in zip(
                    chunk.offsets, chunk.shape, chunk.global_shape, strict=True
                )
            ),
            f"{first.name} has a box outside of itself",
        )
    volume = sum(math.prod(chunk.shape) for chunk in chunks)
    _expect(volume == math.prod(first.global_shape), f"{first.name} has boxes that leave a gap")
    _expect(bool(volume) or len(chunks) == 1, f"{first.name} is empty but has several boxes")
    _expect(not _has_overlap(chunks), f"{first.name} has boxes that overlap")


def _has_overlap(chunks: Sequence[Chunk]) -> bool:
    dims = range(len(chunks[0].global_shape))
    if len(chunks) == 1 or not dims:
        return len(chunks) > 1
    # Sweep along the dim that is cut most: rows of a thousand ranks stay linear.
    sweep = max(dims, key=lambda dim: len({chunk.offsets[dim] for chunk in chunks}))
    active: list[Chunk] = []
    for chunk in sorted(chunks, key=lambda chunk: chunk.offsets[sweep]):
        start = chunk.offsets[sweep]
        active = [other for other in active if other.offsets[sweep] + other.shape[sweep] > start]
        if any(_meet(chunk, other) for other in active):
            return True
        active.append(chunk)
    return False


def _meet(one: Chunk, other: Chunk) -> bool:
    return all(
        start < other_start + other_size and other_start < start + size
        for start, size, other_start, other_size in zip(
            one.offsets, one.shape, other.offsets, other.shape, strict=True
        )
    )


def _expect_fields(kind: type[Any], record: dict[str, Any]) -> None:
    names = {field.name for field in dataclasses.fields(kind)}
    odd = sorted(names ^ set(record))
    _expect(not odd, f"fields missing or unknown: {', '.join(odd)}")


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
