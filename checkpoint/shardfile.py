"""One rank's chunks as one safetensors file: writing it, and reading ranges of it with proof.

The header is laid out here and the tensors streamed after it, so that byte ranges are known before
a byte is written, nothing is held twice, and any store can take it.
"""

import json
from collections.abc import Iterator, Sequence

import torch

from .digest import digest_bytes, tensor_bytes
from .dtypes import BY_NAME, num_bytes, safetensors_code
from .errors import CorruptError
from .layout import Chunk
from .manifest import ChunkEntry, FileEntry
from .stores import Store

_LENGTH_BYTES = 8
_ALIGNMENT = 8


def file_name(rank: int) -> str:
    """The shard file of a rank."""
    return f"rank-{rank:05d}.safetensors"


def write_shard(
    place: Store, folder: str, rank: int, chunks: Sequence[tuple[Chunk, torch.Tensor]]
) -> tuple[FileEntry, list[ChunkEntry]]:
    """Creates `folder/rank-*.safetensors` with the chunks, each under its tensor's name.

    Digests are of the bytes in memory, so damage on the way to the disk shows when they are read.
    """
    name = file_name(rank)
    # Wide dtypes first keeps every tensor aligned, so that the file can be memory-mapped.
    ordered = sorted(chunks, key=lambda held: (-BY_NAME[held[0].dtype].itemsize, held[0].name))
    header = _header([chunk for chunk, _ in ordered])
    entries: list[ChunkEntry] = []

    def pieces() -> Iterator[bytes | memoryview]:
        yield header
        position = len(header)
        for chunk, tensor in ordered:
            data = tensor_bytes(tensor)
            entries.append(_entry(chunk, name, position, digest_bytes(data)))
            position += len(data)
            yield data

    place.create(f"{folder}/{name}", pieces())
    file = FileEntry(
        name=name,
        bytes=entries[-1].end if entries else len(header),
        header_bytes=len(header),
        header_digest=digest_bytes(header),
    )
    return file, entries


def read_chunk(
    place: Store, folder: str, entry: ChunkEntry, *, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Reads one chunk, into `out` (contiguous, CPU, of its shape and dtype) where that is given.

    Raises:
        CorruptError: if its bytes are not those that were written, or not there.
    """
    tensor = torch.empty(entry.shape, dtype=BY_NAME[entry.dtype]) if out is None else out
    data = tensor_bytes(tensor)
    _read(place, folder, entry.file, entry.start, data)
    if digest_bytes(data) != entry.digest:
        raise CorruptError(
            f"bytes {entry.start} to {entry.end} (tensor {entry.name}) do not match their digest",
            path=place.address(folder),
            file=entry.file,
        )
    return tensor


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
    _read(place, folder, file.name, 0, header)
    if digest_bytes(header) != file.header_digest:
        raise CorruptError("its header does not match its digest", path=path, file=file.name)


def _read(place: Store, folder: str, file: str, start: int, buffer: memoryview) -> None:
    path = place.address(folder)
    try:
        count = place.read_into(f"{folder}/{file}", start, buffer)
    except FileNotFoundError as error:
        raise CorruptError("is missing", path=path, file=file) from error
    if count != len(buffer):
        reason = f"ends at byte {start + count} where {start + len(buffer)} were written"
        raise CorruptError(reason, path=path, file=file)


def _header(chunks: Sequence[Chunk]) -> bytes:
    """The header as https://github.com/huggingface/safetensors#format has it, padded to 8 bytes."""
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
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def _entry(chunk: Chunk, file: str, start: int, digest: str) -> ChunkEntry:
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
    )
