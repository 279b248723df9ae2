"""One rank's chunks as one safetensors file: writing it, and reading ranges of it with proof.

The header is laid out here and the tensors streamed after it, so that byte ranges are known before
a byte is written, nothing is held twice, and any store can take it.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence

import torch

from .digest import is_digest_of, tensor_bytes
from .dtypes import BY_NAME, num_bytes, safetensors_code
from .errors import CorruptError
from .layout import Chunk
from .manifest import ChunkEntry, FileEntry
from .pieces import PIECE_BYTES, cut, split_digests
from .seal import PLAIN, Box, Opener, Seal, new_salt
from .stores import Store

_LENGTH_BYTES = 8
# A cache line. Where the kernel copies to or from memory that begins a few bytes (less than 32)
# further into its page than the file's bytes do into theirs, some processors take four times as
# long (xuanwo.io/2023/04-rust-std-fs-slower-than-python); tensors begin at a line.
ALIGNMENT = 64


def file_name(rank: int, *, is_encrypted: bool = False) -> str:
    """The shard file of a rank; what is encrypted has a name that safetensors tools pass over."""
    return f"rank-{rank:05d}.{'sealed' if is_encrypted else 'safetensors'}"


def write_shard(
    place: Store,
    folder: str,
    rank: int,
    chunks: Sequence[tuple[Chunk, torch.Tensor | Callable[[], torch.Tensor]]],
    seal: Seal = PLAIN,
) -> tuple[FileEntry, list[ChunkEntry]]:
    """Creates `folder/rank-*.safetensors` with the chunks, each under its tensor's name.

    A tensor may be given as what makes it, which is called when its bytes are written. Digests are
    of the bytes in memory, so damage on the way to the disk shows when they are read.
    """
    name = file_name(rank, is_encrypted=seal.key is not None)
    salt = new_salt() if seal.key is not None else ""
    ordered = sorted(chunks, key=lambda held: file_order(held[0]))
    header = shard_header([chunk for chunk, _ in ordered])
    cipher = seal.cipher(folder, name, salt)
    entries: list[ChunkEntry] = []

    def pieces() -> Iterator[bytes | memoryview]:
        yield header
        position = len(header)
        for chunk, tensor in ordered:
            data = tensor_bytes(tensor if isinstance(tensor, torch.Tensor) else tensor())
            digests, tags = [], []
            for index, piece in enumerate(cut(data)):
                if cipher is not None:
                    piece, tag = cipher.encrypt((_box(chunk), position), index, piece)
                    tags.append(tag)
                digests.append(seal.digest(piece))
                yield piece
            marks = "".join(digests), "".join(tags)
            entries.append(chunk_entry(chunk, name, position, *marks))
            position += len(data)

    place.create(f"{folder}/{name}", pieces())
    file = FileEntry(
        name=name,
        bytes=entries[-1].end if entries else len(header),
        header_bytes=len(header),
        header_digest=seal.digest(header),
        salt=salt,
    )
    return file, entries


def read_chunk(
    place: Store,
    folder: str,
    entry: ChunkEntry,
    *,
    out: torch.Tensor | None = None,
    opener: Opener | None = None,
) -> torch.Tensor:
    """Reads one chunk, into `out` (contiguous, CPU, of its shape and dtype) where that is given.

    Args:
        opener: of the checkpoint, where it is encrypted.

    Raises:
        CorruptError: if its bytes are not those that were written, or not there.
        SealError: as the opener.
    """
    tensor = torch.empty(entry.shape, dtype=BY_NAME[entry.dtype]) if out is None else out
    data = tensor_bytes(tensor)
    with opened(place, folder, entry.file) as fill:
        for index, piece in enumerate(cut(data)):
            fill(entry.start + index * PIECE_BYTES, piece)
            prove_piece(place.address(folder), entry, index, piece, opener)
    return tensor


def prove_piece(
    path: str, entry: ChunkEntry, index: int, data: memoryview, opener: Opener | None
) -> None:
    """Checks a piece of the checkpoint `path` as it was read, and decrypts it in its place; raises
    as `read_chunk`."""
    if not is_digest_of(data, split_digests(entry.digest, entry.end - entry.start)[index]):
        start = entry.start + index * PIECE_BYTES
        raise CorruptError(
            f"bytes {start} to {start + len(data)} (tensor {entry.name}) do not match their digest",
            path=path,
            file=entry.file,
        )
    if entry.tags:
        assert opener is not None, "an encrypted checkpoint has an opener"
        opener(entry, index, data)


def verify_file(place: Store, folder: str, file: FileEntry) -> None:
    """Checks that the file is there, has its size, and its header; CorruptError otherwise."""
    path = place.address(folder)
    try:
        found = place.size(f"{folder}/{file.name}")
    except FileNotFoundError as error:
        raise CorruptError("is missing", path=path, file=file.name) from error
    if found != file.bytes:
        reason = f"has {found} bytes where {file.bytes} were written"
        raise CorruptError(reason, path=path, file=file.name)
    header = memoryview(bytearray(file.header_bytes))
    with opened(place, folder, file.name) as fill:
        fill(0, header)
    if not is_digest_of(header, file.header_digest):
        raise CorruptError("its header does not match its digest", path=path, file=file.name)


@contextlib.contextmanager
def opened(place: Store, folder: str, file: str) -> Iterator[Callable[..., None]]:
    """Opens a shard file; what it gives fills buffers one after the other from a byte on.

    Raises:
        CorruptError: it is missing, or ends before the buffers are full.
    """
    path = place.address(folder)

    def fill(start: int, *buffers: memoryview) -> None:
        count, wanted = read(start, *buffers), sum(map(len, buffers))
        if count != wanted:
            reason = f"ends at byte {start + count} where {start + wanted} were written"
            raise CorruptError(reason, path=path, file=file)

    try:
        with place.opened(f"{folder}/{file}") as read:
            yield fill
    except FileNotFoundError as error:
        raise CorruptError("is missing", path=path, file=file) from error


def file_order(chunk: Chunk) -> tuple[bool, int, str]:
    """Sorts the chunks of a file so that every tensor is aligned, and it can be memory-mapped.

    First those whose bytes fill lines, which thus all begin at one; of the rest wide dtypes first.
    """
    return chunk.num_bytes % ALIGNMENT != 0, -BY_NAME[chunk.dtype].itemsize, chunk.name


def shard_header(chunks: Sequence[Chunk]) -> bytes:
    """The header of a file of these chunks in their order, padded to a line.

    As https://github.com/huggingface/safetensors#format has it.
    """
    fields: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for chunk in chunks:
        end = position + chunk.num_bytes
        fields[chunk.name] = {
            "dtype": safetensors_code(chunk.dtype),
            "shape": chunk.shape,
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-(_LENGTH_BYTES + len(text)) % ALIGNMENT)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def chunk_entry(chunk: Chunk, file: str, start: int, digest: str, tags: str = "") -> ChunkEntry:
    """What the manifest says of a chunk whose bytes begin at `start` of a file."""
    return ChunkEntry(
        name=chunk.name,
        dtype=chunk.dtype,
        global_shape=chunk.global_shape,
        offsets=chunk.offsets,
        shape=chunk.shape,
        file=file,
        start=start,
        end=start + num_bytes(chunk.dtype, chunk.shape),
        digest=digest,
        tags=tags,
    )


def _box(chunk: Chunk) -> Box:
    return chunk.name, chunk.dtype, chunk.global_shape, chunk.offsets, chunk.shape
