"""A checkpoint of any layout -> live tensors of any layout, by intersecting boxes.

Reads into staging tensors first; the live ones are written by `copy_into`, which cannot fail.
"""

import math
from collections.abc import Mapping, Sequence

import torch

from .dtypes import BY_NAME
from .errors import CorruptError, MismatchError
from .layout import Chunk, State, local_chunks, local_tensor
from .manifest import ChunkEntry, Manifest
from .shardfile import read_chunk, verify_file
from .specs import Spec, spell
from .stores import Store

Slices = tuple[slice, ...]


def check_match(manifest: Manifest, specs: Mapping[str, Spec], *, path: str) -> None:
    """Raises MismatchError unless names, dtypes and global shapes equal those of all the ranks."""
    saved = {entry.name: spell(entry.dtype, entry.global_shape) for entry in manifest.chunks}
    live = {name: spec.kind for name, spec in specs.items()}
    missing, unexpected = sorted(live.keys() - saved.keys()), sorted(saved.keys() - live.keys())
    differing = [
        f"{name}: saved {saved[name]}, live {live[name]}"
        for name in sorted(live.keys() & saved.keys())
        if live[name] != saved[name]
    ]
    if missing or unexpected or differing:
        raise MismatchError(path, missing=missing, unexpected=unexpected, differing=differing)


def read_state(
    place: Store, folder: str, manifest: Manifest, state: State, *, rank: int, size: int
) -> dict[str, torch.Tensor]:
    """This rank's boxes of the state as CPU tensors, each chunk behind them read and proven once.

    Costs one copy of the local state and one chunk. The headers and sizes of the files are shared
    out among the ranks, so that together they prove every byte.

    Raises:
        CorruptError: for a byte that is wrong, missing or short.
        OSError: for a place that does not answer.
    """
    for file in sorted(manifest.files, key=lambda file: file.name)[rank::size]:
        verify_file(place, folder, file)
    saved = manifest.by_name()
    return {
        chunk.name: _read_box(place, folder, chunk, saved[chunk.name])
        for chunk, _ in local_chunks(state)
    }


def copy_into(state: State, staged: Mapping[str, torch.Tensor]) -> None:
    """Copies staged boxes into the live tensors' local parts."""
    with torch.no_grad():
        for name, tensor in staged.items():
            if tensor.numel():  # what is empty has its global shape here, a local one there
                local_tensor(state[name]).copy_(tensor)


def _read_box(
    place: Store, folder: str, wanted: Chunk, entries: Sequence[ChunkEntry]
) -> torch.Tensor:
    box = torch.empty(wanted.shape, dtype=BY_NAME[wanted.dtype])
    filled = 0
    for entry in entries:
        if entry.chunk == wanted:
            return read_chunk(place, folder, entry, out=box)
        overlap = _intersect(wanted, entry.chunk)
        if overlap is not None:
            into, source = overlap
            box[into] = read_chunk(place, folder, entry)[source]
            filled += box[into].numel()
    if filled != math.prod(wanted.shape):
        raise CorruptError(
            f"{wanted.name} has {filled} of {math.prod(wanted.shape)} elements",
            path=place.address(folder),
            file="manifest.json",
        )
    return box


def _intersect(wanted: Chunk, saved: Chunk) -> tuple[Slices, Slices] | None:
    """Where the common box lies in each of the two; None if they have no element in common."""
    into, source = [], []
    for start, length, saved_start, saved_length in zip(
        wanted.offsets, wanted.shape, saved.offsets, saved.shape, strict=True
    ):
        low = max(start, saved_start)
        high = min(start + length, saved_start + saved_length)
        if low >= high:
            return None
        into.append(slice(low - start, high - start))
        source.append(slice(low - saved_start, high - saved_start))
    return tuple(into), tuple(source)
