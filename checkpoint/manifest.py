"""The manifest: what a checkpoint holds, as one line of JSON that is its own proof.

Owns the record and its checks. Does not read or write files.
"""

import contextlib
import dataclasses
import gc
import itertools
import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from .digest import digest_bytes
from .dtypes import BY_NAME
from .errors import CorruptError, VersionError
from .layout import Chunk
from .pieces import PIECE_BYTES, num_pieces
from .tiling import check_tilings

MANIFEST = "manifest.json"
FORMAT = "keepstep-checkpoint"
FORMAT_VERSION = 3
_FILE = re.compile(r"rank-\d{5}\.(safetensors|sealed)", re.ASCII)
_HEX = re.compile(r"[0-9a-f]*", re.ASCII)
# Of each piece: an xxh3-128 or a SHA-256, and the tag of its encryption; of a file: its salt.
_DIGITS, _STRONG_DIGITS, _TAG_DIGITS, _SALT_DIGITS = 32, 64, 32, 32
# The digest comes first and is of all that follows it, so that nothing need be written again to
# prove it. The head has a digest of its own, so that a listing reads and proves no boxes.
_FORMAT = re.compile(
    rb'\{"digest":"([0-9a-f]{32})","format":"%b","format_version":(\d{1,9}),' % FORMAT.encode(),
    re.ASCII,
)
_HEAD = re.compile(
    rb'"head_bytes":(\d{1,12}),"head_digest":"([0-9a-f]{32})","signature":"([0-9a-f]*)","head":',
    re.ASCII,
)
_TENSORS = b',"tensors":'
Check = Callable[[bytes, str], None]
"""Told what was signed and the signature, hex digits, none where nobody signed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry:
    """A shard file: its bytes, and the bytes and digest of its header, before the first tensor.

    `salt` is what its key was derived with, as hex digits; empty where it is not encrypted.
    """

    name: str
    bytes: int
    header_bytes: int
    header_digest: str
    salt: str = ""


class ChunkEntry(NamedTuple):
    """A box and the bytes of `file` from `start` to `end` (exclusive) that hold it.

    `digest` is that of each piece of these bytes, one behind the other; `tags` likewise, where
    they are encrypted.
    """

    name: str
    dtype: str
    global_shape: tuple[int, ...]
    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    file: str
    start: int
    end: int
    digest: str
    tags: str = ""

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
class Head:
    """A checkpoint without its tensors: what a listing reads.

    `created` is in unix seconds; `progress` and `lineage` are any JSON. `claim` and `run` say
    which job wrote it (see `claims`); None where none had claimed the place.
    """

    step: int
    attempt: str
    created: float
    topology: dict[str, int]
    progress: dict[str, Any]
    lineage: dict[str, Any]
    files: tuple[FileEntry, ...]
    claim: int | None = None
    run: str | None = None


@dataclass(frozen=True, kw_only=True)
class Manifest(Head):
    """One checkpoint, and where each box of its tensors lies."""

    chunks: tuple[ChunkEntry, ...]

    @cached_property
    def by_name(self) -> Mapping[str, Sequence[ChunkEntry]]:
        """The chunks of each tensor by offsets, names sorted."""
        found: dict[str, list[ChunkEntry]] = defaultdict(list)
        for entry in self.chunks:
            found[entry.name].append(entry)
        for entries in found.values():
            if len(entries) > 1:
                entries.sort(key=lambda entry: entry.offsets)
        return dict(sorted(found.items()))

    @property
    def is_strong(self) -> bool:
        """Whether the digests are such that nobody can build other bytes of equal ones."""
        return all(len(file.header_digest) == _STRONG_DIGITS for file in self.files) and all(
            len(entry.digest) == _STRONG_DIGITS * num_pieces(entry.end - entry.start)
            for entry in self.chunks
        )


_PLAIN = tuple(field.name for field in dataclasses.fields(Head) if field.name != "files")


def accept(signed: bytes, signature: str) -> None:
    """Takes a manifest whoever wrote it."""


def chunk_from(record: Sequence[Any]) -> ChunkEntry:
    """A chunk as JSON gives it, its lists made tuples again; nothing is checked."""
    name, dtype, global_shape, offsets, shape, *rest = record
    return ChunkEntry(name, dtype, tuple(global_shape), tuple(offsets), tuple(shape), *rest)


def encode(manifest: Manifest, sign: Callable[[bytes], str] = lambda signed: "") -> bytes:
    """The manifest as one line of JSON that begins with the digest of the rest.

    Args:
        sign: makes a signature, as hex digits, of the head and the tensors.

    Raises:
        ValueError: if it could not be decoded again: boxes that leave a gap or overlap, names
            twice, values that JSON does not hold as they are.
    """
    for file in manifest.files:
        _check_file(file)
    by_name = manifest.by_name
    _check(manifest, by_name)
    free = [manifest.topology, manifest.progress, manifest.lineage]
    if json.loads(json.dumps(free, allow_nan=False)) != free:
        raise ValueError(
            "The progress or lineage of a checkpoint holds values that JSON changes, but must "
            "come back as they are: use str keys, lists, numbers, strings, booleans and None."
        )
    head = _json(
        {
            **{name: getattr(manifest, name) for name in _PLAIN},
            "files": [dataclasses.asdict(file) for file in manifest.files],
        }
    )
    body = head + _TENSORS + _json(_group(manifest.files, by_name)) + b"}"
    rest = (
        b'"format":"%b","format_version":%d,"head_bytes":%d,"head_digest":"%b","signature":"%b",'
        b'"head":'
        % (
            *(FORMAT.encode(), FORMAT_VERSION, len(head), digest_bytes(head).encode()),
            sign(body).encode(),
        )
    )
    rest += body
    return b'{"digest":"%b",%b' % (digest_bytes(rest).encode(), rest)


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where the parts of a manifest's bytes lie: `head` from `start` to `end`, before that who
    vouches for what."""

    start: int
    end: int
    digest: str
    head_digest: str
    signature: str


def _frame(raw: bytes, path: str) -> _Frame:
    opening = _FORMAT.match(raw)
    if opening is None:
        raise CorruptError("is not of a keepstep checkpoint", path=path, file=MANIFEST)
    if int(opening[2]) != FORMAT_VERSION:
        raise VersionError(path, found=int(opening[2]), known=FORMAT_VERSION)
    rest = _HEAD.match(raw, opening.end())
    if rest is None:
        raise CorruptError("is not a manifest", path=path, file=MANIFEST)
    start = rest.end()
    end = start + int(rest[1])
    return _Frame(start, end, *(part.decode() for part in (opening[1], rest[2], rest[3])))


def head_end(raw: bytes, *, path: str) -> int:
    """How many of a manifest's bytes its head needs, from the first few hundred; raises as
    `decode`."""
    return _frame(raw, path).end


def decode_head(raw: bytes, *, path: str) -> Head:
    """The head, proven, from the beginning of a manifest's bytes; raises as `decode`. What lies
    behind it may be damaged."""
    frame = _frame(raw, path)
    head = raw[frame.start : frame.end]
    if digest_bytes(head) != frame.head_digest:
        raise CorruptError("its head does not match its digest", path=path, file=MANIFEST)
    with _Said(path):
        return Head(**_parse_head(json.loads(head)))


def prove(raw: bytes, *, path: str) -> None:
    """Raises as `decode` where a byte of the manifest was changed; nothing of it is parsed."""
    opening = _FORMAT.match(raw)
    after = opening and raw[len('{"digest":"",') + _DIGITS :]
    if opening is None or digest_bytes(after or b"") != opening[1].decode():
        raise CorruptError("does not match its own digest", path=path, file=MANIFEST)


def decode(raw: bytes, *, path: str, check: Check = accept) -> Manifest:
    """The manifest of the checkpoint `path`, proven byte by byte, and consistent in itself.

    Args:
        check: called before anything of it is parsed; raises what this is then to raise.

    Raises:
        CorruptError: if any byte was changed, or it contradicts itself.
        VersionError: if it is of an unknown format version.
    """
    frame = _frame(raw, path)
    prove(raw, path=path)
    check(raw[frame.start :], frame.signature)
    head, rest = raw[frame.start : frame.end], raw[frame.end :]
    with _Said(path), _uncollected():
        _expect(digest_bytes(head) == frame.head_digest, "its head has another digest")
        _expect(rest.startswith(_TENSORS) and rest.endswith(b"}"), "its head ends elsewhere")
        parsed = _parse_head(json.loads(head))
        names = [file.name for file in parsed["files"]]
        chunks: list[ChunkEntry] = []
        for name, tensor in json.loads(rest[len(_TENSORS) : -1]).items():
            chunks += _parse_tensor(name, tensor, names)
        manifest = Manifest(**parsed, chunks=tuple(chunks))
        _check(manifest, manifest.by_name)
    return manifest


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without garbage collection, which would walk hundreds of thousands of new records, none of
    them garbage, again and again, and take longer than their making."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _Said:
    """Makes damage of what parsing raises."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        """Nothing is held."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        wrong = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)
        if isinstance(error, wrong):
            reason = f"contradicts itself: {error}"
            raise CorruptError(reason, path=self._path, file=MANIFEST) from error


def _json(record: object) -> bytes:
    return json.dumps(record, separators=(",", ":"), allow_nan=False).encode()


def _group(
    files: Sequence[FileEntry], by_name: Mapping[str, Sequence[ChunkEntry]]
) -> dict[str, list[Any]]:
    """Boxes by tensor: [dtype, shape, [[offsets, shape, place of file, start, digest], ...]], and
    the tags behind the digest where there are any."""
    places = {file.name: place for place, file in enumerate(files)}
    return {
        name: [
            *(entries[0].dtype, entries[0].global_shape),
            [
                (one.offsets, one.shape, places[one.file], one.start, one.digest, one.tags)
                if one.tags
                else (one.offsets, one.shape, places[one.file], one.start, one.digest)
                for one in entries
            ],
        ]
        for name, entries in by_name.items()
    }


def _parse_head(record: dict[str, Any]) -> dict[str, Any]:
    odd = sorted({*_PLAIN, "files"} ^ set(record))
    _expect(not odd, f"fields missing or unknown: {', '.join(odd)}")
    record["files"] = tuple(map(_parse_file, record["files"]))
    head = Head(**record)
    _expect(_is_count(head.step), f"step is {head.step!r}")
    _expect(isinstance(head.attempt, str), f"attempt is {head.attempt!r}")
    _expect(isinstance(head.created, int | float), f"created is {head.created!r}")
    is_claimed = _is_count(head.claim) and isinstance(head.run, str)
    is_free = head.claim is None and head.run is None
    _expect(is_claimed or is_free, f"claim is {head.claim!r} of run {head.run!r}")
    for name in ("topology", "progress", "lineage"):
        _expect(isinstance(record[name], dict), f"{name} is no object")
    _expect(all(map(_is_count, head.topology.values())), "topology holds more than counts")
    return record


def _parse_file(record: dict[str, Any]) -> FileEntry:
    names = {field.name for field in dataclasses.fields(FileEntry)}
    odd = sorted(names ^ set(record))
    _expect(not odd, f"fields missing or unknown: {', '.join(odd)}")
    return _check_file(FileEntry(**record))


def _check_file(entry: FileEntry) -> FileEntry:
    # The pattern is what keeps a name inside the checkpoint's folder.
    _expect(bool(_FILE.fullmatch(entry.name)), f"a file is named {entry.name!r}")
    _expect(_is_count(entry.bytes) and _is_count(entry.header_bytes), f"sizes of {entry.name}")
    is_hex = bool(_HEX.fullmatch(entry.header_digest + entry.salt))
    lengths = len(entry.header_digest) in (_DIGITS, _STRONG_DIGITS)
    _expect(is_hex and lengths, f"digest of {entry.name}")
    _expect(len(entry.salt) in (0, _SALT_DIGITS), f"salt of {entry.name}")
    return entry


def _parse_tensor(name: str, record: Any, files: Sequence[str]) -> list[ChunkEntry]:
    dtype, whole, boxes = record
    _expect(dtype in BY_NAME, f"{name} has dtype {dtype!r}")
    counts = [*whole, *itertools.chain.from_iterable((*o, *s, p, b) for o, s, p, b, *_ in boxes)]
    is_box = set(map(type, counts)) <= {int} and min(counts, default=0) >= 0
    _expect(is_box, f"{name} has a box that is none")
    size, whole = BY_NAME[dtype].itemsize, tuple(whole)
    found = []
    for offsets, shape, place, start, digest, *tags in boxes:
        if place >= len(files):
            raise ValueError(f"{name} lies in the unlisted file {place!r}")
        end = start + size * math.prod(shape)
        box = (tuple(offsets), tuple(shape))
        found.append(ChunkEntry(name, dtype, whole, *box, files[place], start, end, digest, *tags))
    return found


def _check(manifest: Manifest, by_name: Mapping[str, Sequence[ChunkEntry]]) -> None:
    files = {entry.name: entry for entry in manifest.files}
    _expect(len(files) == len(manifest.files), "a file is listed twice")
    sealed = {file.name for file in manifest.files if file.salt}
    sizes = {dtype: kind.itemsize for dtype, kind in BY_NAME.items()}
    for one in manifest.chunks:
        # Messages are made where they are needed: this runs a hundred thousand times a save.
        if one.file not in files:
            raise ValueError(f"{one.name} lies in the unlisted file {one.file!r}")
        count = one.end - one.start
        if count != sizes[one.dtype] * math.prod(one.shape):
            raise ValueError(f"{one.name} has a byte range of another size")
        pieces = 1 if count <= PIECE_BYTES else num_pieces(count)
        if len(one.digest) not in (_DIGITS * pieces, _STRONG_DIGITS * pieces):
            raise ValueError(f"digest of {one.name}")
        if len(one.tags) != (_TAG_DIGITS * pieces if one.file in sealed else 0):
            raise ValueError(f"tags of {one.name}")
    digits = "".join(one.digest + one.tags for one in manifest.chunks)
    _expect(bool(_HEX.fullmatch(digits)), "a digest holds more than hex digits")
    _check_ranges(manifest.files, manifest.chunks)
    check_tilings(by_name.values())


def _check_ranges(files: Sequence[FileEntry], chunks: Sequence[ChunkEntry]) -> None:
    """Refuses ranges that leave out or share a byte: a byte in no range would go unproven.

    Every file's header counts as its first range.
    """
    places = {file.name: place for place, file in enumerate(files)}
    place = [*range(len(files)), *(places[one.file] for one in chunks)]
    starts = [*(0 for _ in files), *(one.start for one in chunks)]
    ends = [*(file.header_bytes for file in files), *(one.end for one in chunks)]
    file, start, end = (np.array(column, dtype=np.int64) for column in (place, starts, ends))
    # The header comes first even where it is as empty as a tensor at 0.
    order = np.lexsort((np.arange(len(file)), end, start, file))
    file, start, end = file[order], start[order], end[order]
    wrong = np.flatnonzero((file[1:] == file[:-1]) & (start[1:] != end[:-1]))
    if len(wrong):
        name, position = files[file[wrong[0]]].name, end[wrong[0]]
        raise ValueError(f"byte {position} of {name} is in no or two tensors")
    lasts = end[np.flatnonzero(np.diff(file, append=len(files)))]
    for one, last in zip(files, lasts, strict=True):
        _expect(one.bytes == last, f"{one.name} ends elsewhere than its last tensor")


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
