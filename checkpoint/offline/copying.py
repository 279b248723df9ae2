"""A checkpoint from one place to another, byte for byte and proven on the way, manifest last."""

import contextlib
from collections.abc import Iterator

from ..errors import CheckpointError, CorruptError
from ..exchange import Exchange, gather_results, share
from ..listing import parse_manifest, remove_checkpoint
from ..manifest import MANIFEST, ChunkEntry, FileEntry, Manifest
from ..pieces import first_damaged
from ..shardfile import opened
from ..stores import Store, read_bytes
from .items import Progress


def copy_together(source: Store, folder: str, target: Store, exchange: Exchange) -> int:
    """Collective: as `copy`, the files shared out among the ranks; answers the bytes of all.

    What a copy that failed has left is debris, which a later save there collects.

    Raises:
        RanksFailedError: on every rank, where any met damage, or a place that does not answer.
    """
    raw = share(exchange, lambda: read_bytes(source, f"{folder}/{MANIFEST}"))
    manifest = parse_manifest(source, folder, raw)
    by_file = _by_file(manifest)

    def copy_own() -> bytes:
        for file in manifest.files[exchange.rank :: exchange.size]:
            target.create(
                f"{folder}/{file.name}", _proven(source, folder, file, by_file[file.name])
            )
        return b""

    def publish() -> bytes:
        _check_landed(target, folder, manifest)
        target.create(f"{folder}/{MANIFEST}", [raw])
        return b""

    gather_results(exchange, copy_own)
    share(exchange, publish)
    return len(raw) + sum(file.bytes for file in manifest.files)


def copy(
    source: Store, folder: str, target: Store, *, progress: Progress | None = None
) -> Manifest:
    """Copies a committed checkpoint under its own name; every byte is compared with its digest
    before it is written, and the copy counts only once it is whole. Holds one chunk at a time.

    Raises:
        CorruptError: a byte of the source is wrong, missing or short; nothing is left behind.
        FileExistsError: the target has this checkpoint already.
        OSError: a place that does not answer, or is full.
    """
    raw = read_bytes(source, f"{folder}/{MANIFEST}")
    manifest = parse_manifest(source, folder, raw)
    if f"{folder}/{MANIFEST}" in target.list():
        raise FileExistsError(f"{target.address(folder)} is there already, and is left as it is")
    by_file = _by_file(manifest)
    counted = _Counted(sum(file.bytes for file in manifest.files), progress)
    try:
        # What a copy that was cut short left there has the same name and may be torn.
        remove_checkpoint(target, folder)
        for file in manifest.files:
            pieces = _proven(source, folder, file, by_file[file.name])
            target.create(f"{folder}/{file.name}", counted.through(pieces))
        target.create(f"{folder}/{MANIFEST}", [raw])
    except FileExistsError:  # another copy is at work there, and what it wrote is its own
        raise
    except BaseException:
        with contextlib.suppress(OSError):
            remove_checkpoint(target, folder)
        raise
    _check_landed(target, folder, manifest)
    return manifest


def _by_file(manifest: Manifest) -> dict[str, list[ChunkEntry]]:
    found: dict[str, list[ChunkEntry]] = {file.name: [] for file in manifest.files}
    for entry in manifest.chunks:
        found[entry.file].append(entry)
    return found


def _check_landed(target: Store, folder: str, manifest: Manifest) -> None:
    for file in manifest.files:
        found = target.size(f"{folder}/{file.name}")
        if found != file.bytes:
            raise CheckpointError(
                f"{target.address(folder)}/{file.name}: found {found} bytes, needed {file.bytes}: "
                "the place lost some of them; copy again to another place.",
                path=target.address(folder),
                step=manifest.step,
            )


def _proven(
    source: Store, folder: str, file: FileEntry, entries: list[ChunkEntry]
) -> Iterator[memoryview]:
    """The file's bytes in order: its header and then its chunks, each with its digest."""
    spans = [(0, file.header_bytes, file.header_digest, "its header")]
    spans += [
        (entry.start, entry.end, entry.digest, f"tensor {entry.name}")
        for entry in sorted(entries, key=lambda entry: (entry.start, entry.end))
    ]
    path = source.address(folder)
    with opened(source, folder, file.name) as fill:
        for start, end, digest, what in spans:
            buffer = memoryview(bytearray(end - start))
            fill(start, buffer)
            if first_damaged(buffer, digest) is not None:
                reason = f"bytes {start} to {end} ({what}) do not match their digest"
                raise CorruptError(reason, path=path, file=file.name)
            yield buffer


class _Counted:
    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def through(self, pieces: Iterator[memoryview]) -> Iterator[memoryview]:
        for piece in pieces:
            yield piece
            self._done += len(piece)
            if self._progress is not None:
                self._progress(self._done, self._total)
