"""One attempt to save: shard files, then the manifest, once and last; all ranks or none.

Does not choose when to save nor what to keep.
"""

import dataclasses
import json
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .dtypes import num_bytes
from .errors import SHOWN, CheckpointError, DiskFullError
from .exchange import Exchange, RanksFailedError, gather_results, share
from .layout import Chunk, State, local_chunks, plan_writes
from .listing import committed, folder_name, remove_checkpoint
from .manifest import MANIFEST, FileEntry, Manifest, chunk_from, encode
from .shardfile import write_shard
from .specs import Spec, gather_specs
from .stores import Store

# Upper bounds of what a box adds to a header and to the manifest, beside its name.
_BOX_BYTES, _MANIFEST_BYTES = 700, 16384
Chunks = list[tuple[Chunk, torch.Tensor]]
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cargo:
    """What goes into a checkpoint beside the tensors; the same on every rank."""

    step: int
    topology: dict[str, int]
    progress: dict[str, Any]
    lineage: dict[str, Any]


def commit(
    place: Store, exchange: Exchange, state: State, cargo: Cargo, *, holders: Sequence[int]
) -> tuple[str, int]:
    """Collective: saves the state under a folder of its own; answers the folder and its bytes.

    The checkpoint holds every name that is in the state of any rank. `holders` are the ranks that
    have the same names as this one. Blocks until the checkpoint is durable. If any rank fails, all
    do: the attempt is removed and what was there before is as it was.

    Raises:
        DiskFullError: on every rank, if a rank was told that no space or quota is left.
        CheckpointError: on every rank, if a rank failed in another way.
        ValueError: on every rank, before any work, for a dtype or placement that checkpoints do
            not hold, or a name with which two ranks mean different tensors.
    """
    specs = gather_specs(exchange, state)
    needed, chunks = _needed_bytes(specs), _own_chunks(state, exchange.rank, holders)
    attempt = share(exchange, lambda: secrets.token_hex(4).encode()).decode()
    folder = folder_name(cargo.step, attempt)
    try:
        reports = gather_results(exchange, lambda: _write_own(place, folder, exchange.rank, chunks))
        count = share(exchange, lambda: _publish(place, folder, attempt, cargo, reports, specs))
    except RanksFailedError as error:
        raise _abandon(place, exchange, folder, error, cargo.step, needed) from error
    return folder, int(count)


def needed_bytes(exchange: Exchange, state: State) -> int:
    """Collective: bytes that a checkpoint takes at most, each tensor counted once over all ranks.

    Raises:
        ValueError: as `commit`.
    """
    return _needed_bytes(gather_specs(exchange, state))


def require_space(place: Store, exchange: Exchange, state: State) -> None:
    """Collective: raises DiskFullError on every rank if the place cannot hold one checkpoint."""
    needed = needed_bytes(exchange, state)
    free = [json.loads(answer) for answer in gather_results(exchange, _free_bytes(place))]
    least = min((count for count in free if count is not None), default=needed)
    if least < needed:
        raise DiskFullError(place.address(), free_bytes=least, needed_bytes=needed)


def _needed_bytes(specs: dict[str, Spec]) -> int:
    return _MANIFEST_BYTES + sum(
        num_bytes(spec.dtype, spec.shape) + spec.boxes * (_BOX_BYTES + 4 * len(name.encode()))
        for name, spec in specs.items()
    )


def _own_chunks(state: State, rank: int, holders: Sequence[int]) -> Chunks:
    mine = plan_writes(state, rank=rank, holders=holders)
    return [held for held in local_chunks(state) if held[0].name in mine]


def _write_own(place: Store, folder: str, rank: int, chunks: Chunks) -> bytes:
    if not chunks:
        return b"null"
    file, entries = write_shard(place, folder, rank, chunks)
    return json.dumps([dataclasses.asdict(file), [dataclasses.asdict(e) for e in entries]]).encode()


def _publish(
    place: Store,
    folder: str,
    attempt: str,
    cargo: Cargo,
    reports: list[bytes],
    specs: dict[str, Spec],
) -> bytes:
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
    manifest = Manifest(
        step=cargo.step,
        attempt=attempt,
        created=_next_time(place),
        topology=cargo.topology,
        progress=cargo.progress,
        lineage=cargo.lineage,
        files=tuple(files),
        chunks=tuple(chunks),
    )
    raw = encode(manifest)
    place.create(f"{folder}/{MANIFEST}", [raw])
    return str(len(raw) + sum(file.bytes for file in files)).encode()


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
    if failed.is_full:
        return DiskFullError(place.address(), free_bytes=free or 0, needed_bytes=needed)
    return CheckpointError(
        f"{path} was not saved at step {step}: {failed}, but every rank must write its part: "
        "mend that and save again; older checkpoints are as they were.",
        path=path,
        step=step,
    )


def _free_bytes(place: Store) -> Callable[[], bytes]:
    return lambda: json.dumps(place.free_bytes()).encode()
