"""One attempt to save: shard files, then the manifest, once and last; all ranks or none.

Does not choose when to save nor what to keep.
"""

import dataclasses
import json
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .claims import OPEN, Fence
from .dtypes import num_bytes
from .errors import (
    SHOWN,
    CheckpointError,
    CorruptError,
    DamagedPartError,
    DiskFullError,
    FencedError,
)
from .exchange import Exchange, Kind, RanksFailedError, gather_results, share
from .listing import committed, folder_name, remove_checkpoint
from .manifest import MANIFEST, FileEntry, Manifest, chunk_from, encode
from .part import Part
from .pieces import num_pieces
from .seal import PLAIN, Seal
from .specs import Spec
from .stores import Store

# Upper bounds of what a box adds to a header and to the manifest, beside its name.
_BOX_BYTES, _MANIFEST_BYTES = 700, 16384
# A SHA-256 and a tag of each piece, as hex digits.
_PIECE_BYTES = 96
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cargo:
    """What goes into a checkpoint beside the tensors; the same on every rank."""

    step: int
    topology: dict[str, int]
    progress: dict[str, Any]
    lineage: dict[str, Any]


def commit(
    place: Store,
    exchange: Exchange,
    part: Part,
    cargo: Cargo,
    fence: Fence = OPEN,
    seal: Seal = PLAIN,
) -> tuple[str, int]:
    """Collective: saves the parts under a folder of their own; answers the folder and its bytes.

    The checkpoint holds every name that is in the part of any rank. Needs no process group: the
    ranks may be guardians that speak over a store. Blocks until the checkpoint is durable. If any
    rank fails, all do: the attempt is removed and what was there before is as it was.

    Args:
        fence: asked on rank 0 just before the manifest is published.
        seal: what is signed on rank 0, and encrypted on each, with one key.

    Raises:
        DiskFullError: on every rank, if a rank was told that no space or quota is left.
        FencedError: on every rank, if this job, or this generation of it, may write no more.
        DamagedPartError: on every rank, if a part is not as it was.
        CheckpointError: on every rank, if a rank failed in another way.
        ValueError: on every rank, before any work, as `Part.specs`.
    """
    specs = part.specs(exchange)
    attempt = share(exchange, lambda: secrets.token_hex(4).encode()).decode()
    folder = folder_name(cargo.step, attempt)
    try:
        reports = gather_results(
            exchange, lambda: _write_own(place, folder, exchange.rank, part, seal)
        )

        def publish() -> bytes:
            manifest = _merge(place, attempt, cargo, reports, specs, fence)
            return _publish(place, folder, manifest, fence, seal)

        count = share(exchange, publish)
    except RanksFailedError as error:
        raise _abandon(place, exchange, folder, error, cargo.step, needed_bytes(specs)) from error
    return folder, int(count)


def needed_bytes(specs: Mapping[str, Spec]) -> int:
    """Bytes that a checkpoint of these tensors takes at most, each counted once over all ranks."""
    total = _MANIFEST_BYTES
    for name, spec in specs.items():
        count = num_bytes(spec.dtype, spec.shape)
        total += count + num_pieces(count) * _PIECE_BYTES
        total += spec.boxes * (_BOX_BYTES + _PIECE_BYTES + 4 * len(name.encode()))
    return total


def require_space(place: Store, exchange: Exchange, needed: int) -> None:
    """Collective: raises DiskFullError on every rank if the place cannot take `needed` bytes."""
    free = [json.loads(answer) for answer in gather_results(exchange, _free_bytes(place))]
    least = min((count for count in free if count is not None), default=needed)
    if least < needed:
        raise DiskFullError(place.address(), free_bytes=least, needed_bytes=needed)


def _write_own(place: Store, folder: str, rank: int, part: Part, seal: Seal) -> bytes:
    try:
        written = part.write(place, folder, rank, seal)
    except CorruptError as error:
        raise DamagedPartError(str(error), path=place.address(folder)) from error
    if written is None:
        return b"null"
    file, entries = written
    return json.dumps([dataclasses.asdict(file), entries]).encode()


def _merge(
    place: Store,
    attempt: str,
    cargo: Cargo,
    reports: list[bytes],
    specs: dict[str, Spec],
    fence: Fence,
) -> Manifest:
    files, chunks = [], []
    for file, entries in filter(None, map(json.loads, reports)):
        files.append(FileEntry(**file))
        chunks += [chunk_from(entry) for entry in entries]
    # A wrong `holders` leaves plain tensors to ranks that do not have them.
    unwritten = sorted(specs.keys() - {entry.name for entry in chunks})
    if unwritten:
        raise ValueError(
            f"{len(unwritten)} tensors were written by no rank ({', '.join(unwritten[:SHOWN])}), "
            "but each must be by one: name as holders the ranks whose states have the same names"
        )
    return Manifest(
        step=cargo.step,
        attempt=attempt,
        created=_next_time(place),
        topology=cargo.topology,
        progress=cargo.progress,
        lineage=cargo.lineage,
        files=tuple(files),
        chunks=tuple(chunks),
        claim=fence.claim and fence.claim.number,
        run=fence.claim and fence.claim.run,
    )


def _publish(place: Store, folder: str, manifest: Manifest, fence: Fence, seal: Seal) -> bytes:
    raw = encode(manifest, seal.sign)
    # Last, so that little time is left in which another could begin; what slips through still is
    # never the newest, since listings go by the claim.
    fence.check(place, folder, step=manifest.step)
    place.create(f"{folder}/{MANIFEST}", [raw])
    return str(len(raw) + sum(file.bytes for file in manifest.files)).encode()


def _next_time(place: Store) -> float:
    """Now, or just past the newest checkpoint where this node's clock is behind: order is by it."""
    latest = max((found.created for found in committed(place)), default=0.0)
    return round(max(time.time(), latest + 0.001), 3)


def _abandon(
    place: Store,
    exchange: Exchange,
    folder: str,
    failed: RanksFailedError,
    step: int,
    needed: int,
) -> Exception:
    """Removes the attempt, which no rank writes into any more; answers what every rank raises."""

    def remove() -> bytes:
        try:
            remove_checkpoint(place, folder)
        except OSError as error:
            _logger.warning("Could not remove %s: %s", place.address(folder), error)
        return _free_bytes(place)()

    free = json.loads(share(exchange, remove))
    path = place.address(folder)
    if failed.has(Kind.fenced):
        return FencedError(f"Step {step} was not saved: {failed}", path=path, step=step)
    if failed.has(Kind.damaged):
        return DamagedPartError(f"Step {step} was not saved: {failed}", path=path, step=step)
    if failed.has(Kind.full):
        return DiskFullError(place.address(), free_bytes=free or 0, needed_bytes=needed)
    return CheckpointError(
        f"{path} was not saved at step {step}: {failed}, but every rank must write its part: "
        "mend that and save again; older checkpoints are as they were.",
        path=path,
        step=step,
    )


def _free_bytes(place: Store) -> Callable[[], bytes]:
    return lambda: json.dumps(place.free_bytes()).encode()
