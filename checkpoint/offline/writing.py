"""Tensors that are read one by one -> a committed checkpoint, by one process."""

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch

from ..commit import Cargo
from ..layout import Chunk
from ..listing import committed, folder_name, remove_checkpoint
from ..manifest import MANIFEST, ChunkEntry, FileEntry, Head, Manifest, encode
from ..shardfile import write_shard
from ..stores import Store
from .items import Item, Progress, checked

_FILE_BYTES = 4 * 2**30


def write(
    place: Store,
    items: Sequence[Item],
    cargo: Cargo,
    *,
    file_bytes: int = _FILE_BYTES,
    progress: Progress | None = None,
) -> str:
    """Commits a checkpoint of these tensors, the manifest last; its folder.

    Holds one tensor at a time. Whatever fails, what was written is removed.

    Args:
        file_bytes: a file takes no more, unless one tensor is larger.

    Raises:
        ValueError: no tensors, a name twice, or a tensor that is not what its item says.
    """
    if not items:
        raise ValueError("A checkpoint: found no tensors to write, needed one or more; name others")
    attempt = secrets.token_hex(4)
    folder = folder_name(cargo.step, attempt)
    files: list[FileEntry] = []
    chunks: list[ChunkEntry] = []
    counted = _Counted(sum(item.num_bytes for item in items), progress)
    try:
        for number, group in enumerate(split(items, file_bytes)):
            file, entries = write_shard(place, folder, number, [counted.lazy(i) for i in group])
            files.append(file)
            chunks += entries
        newest = _newest(place)
        manifest = Manifest(
            step=cargo.step,
            attempt=attempt,
            # Just past the newest where this machine's clock is behind, and as of its claim: what
            # is written now is what comes first.
            created=round(max(time.time(), newest.created + 0.001 if newest else 0.0), 3),
            topology=cargo.topology,
            progress=cargo.progress,
            lineage=cargo.lineage,
            files=tuple(files),
            chunks=tuple(chunks),
            claim=newest.claim if newest else None,
            run=newest.run if newest else None,
        )
        place.create(f"{folder}/{MANIFEST}", [encode(manifest)])
    except BaseException:
        with contextlib.suppress(OSError):
            remove_checkpoint(place, folder)
        raise
    return folder


def split(items: Sequence[Item], most_bytes: int) -> Iterator[list[Item]]:
    """Groups in order, none larger than that unless one tensor is."""
    group: list[Item] = []
    size = 0
    for item in items:
        if group and size + item.num_bytes > most_bytes:
            yield group
            group, size = [], 0
        group.append(item)
        size += item.num_bytes
    if group:
        yield group


class _Counted:
    """Tells how much has been read so far."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def lazy(self, item: Item) -> tuple[Chunk, Callable[[], torch.Tensor]]:
        return item.chunk, partial(self._read, item)

    def _read(self, item: Item) -> torch.Tensor:
        tensor = checked(item, item.read())
        self._done += item.num_bytes
        if self._progress is not None:
            self._progress(self._done, self._total)
        return tensor


def _newest(place: Store) -> Head | None:
    return next((found.head for found in committed(place) if found.head), None)
