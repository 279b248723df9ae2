"""Checkpoints: what a run calls to save its state, find it again, and keep the newest few.

Composes this room; owns no format and no thread.
"""

import dataclasses
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, final

import torch

from .commit import Cargo, commit, needed_bytes, require_space
from .errors import CheckpointError, CorruptError
from .exchange import Exchange, RanksFailedError, share
from .layout import State
from .listing import Found, collect_debris, committed, parse_manifest, remove_checkpoint
from .manifest import MANIFEST, Manifest
from .reader import check_match, copy_into, read_state
from .retention import steps_to_remove
from .specs import Spec, gather_specs
from .stores import Store, read_bytes
from .verify import Damage, damage_of

# Longer than any pause between two writes of a save that still lives.
_DEBRIS_AGE = timedelta(minutes=15)
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Saved:
    """A committed checkpoint: `bytes` of all its files, `seconds` that the save blocked."""

    step: int
    path: str
    bytes: int
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Restored:
    """What was loaded, and the newer checkpoints that were passed over because of damage."""

    step: int
    path: str
    progress: dict[str, Any]
    lineage: dict[str, Any]
    damaged: list[Damage]


@final
class Checkpoints:
    """The checkpoints of one run in one place.

    Every rank calls the collective methods. A state maps names to DTensors (Replicate, Shard, and
    FSDP's strided shards over tensor-parallel ones) or to plain tensors. Each rank lists what it
    holds, such as its pipeline stages; a checkpoint is of all that any of them lists. A name is one
    tensor: in a state to be saved the ranks of one mesh have it, or, of a plain tensor, `holders`,
    with equal values; in a state to be restored any rank may, on whatever mesh.

    Args:
        place: where they lie.
        exchange: how the ranks speak; used by the calling thread only.
        keep: how many of the newest whole ones stay, at least 1.
        holders: global ranks whose saved states have the same names as this rank's, this one
            among them, sorted, such as those of its pipeline stage; None means all.
    """

    def __init__(
        self,
        place: Store,
        exchange: Exchange,
        *,
        keep: int,
        holders: Sequence[int] | None = None,
    ) -> None:
        self._place = place
        self._exchange = exchange
        self._keep = keep
        self._holders = range(exchange.size) if holders is None else holders
        if exchange.rank not in self._holders:
            raise ValueError(
                f"holders: found the ranks {list(self._holders)} on rank {exchange.rank}, needed "
                "this rank among them; name all ranks whose states have the same names"
            )

    def save(
        self,
        state: State,
        *,
        step: int,
        topology: dict[str, int],
        progress: dict[str, Any],
        lineage: dict[str, Any],
    ) -> Saved:
        """Collective: commits the state and then removes what retention no longer keeps.

        The state has what this rank may write: of a tensor that several meshes hold (tied
        weights), only the ranks of one mesh list it. Blocks until the checkpoint is durable.
        `topology`, `progress` and `lineage` are equal on every rank; the latter two are JSON with
        str keys and come back from `restore` as given.

        Raises:
            DiskFullError: on every rank; the attempt is removed, older checkpoints are untouched.
            CheckpointError: likewise, for any other failure of any rank.
            ValueError: on every rank, before any work, for a dtype or placement that checkpoints
                do not hold, or a name with which two ranks mean different tensors.
        """
        begun = time.monotonic()
        cargo = Cargo(step=step, topology=topology, progress=progress, lineage=lineage)
        folder, count = commit(self._place, self._exchange, state, cargo, holders=self._holders)
        if self._exchange.rank == 0:
            self._tidy()
        return Saved(
            step=step,
            path=self._place.address(folder),
            bytes=count,
            seconds=time.monotonic() - begun,
        )

    def restore(self, state: State, *, step: int | None = None) -> Restored | None:
        """Collective: loads the newest whole checkpoint, or the newest whole one of `step`.

        The state has what this rank is to fill. The live tensors are written only once every rank
        has read and proven its part. None if there is no checkpoint (of that step).

        Raises:
            MismatchError: on every rank, if a whole manifest has other names, dtypes or shapes than
                the states of all ranks together; nothing was loaded.
            VersionError: if one is of an unknown format version; nothing was loaded.
            ValueError: as `save`.
            CheckpointError: if there are checkpoints and none is whole, or none can be listed.
        """
        damaged: list[Damage] = []
        folders = self._candidates(step)
        specs = gather_specs(self._exchange, state) if folders else {}
        for folder in folders:
            manifest = self._manifest(folder, damaged)
            if manifest and self._load(folder, manifest, state, specs, damaged):
                return Restored(
                    step=manifest.step,
                    path=self._place.address(folder),
                    progress=manifest.progress,
                    lineage=manifest.lineage,
                    damaged=damaged,
                )
        if folders:
            raise self._none_whole(damaged, step)
        return None

    def steps(self) -> list[tuple[int, str]]:
        """Step and path of each committed checkpoint, newest first, as this rank sees the place."""
        return [(found.step, self._place.address(found.folder)) for found in committed(self._place)]

    def needed_bytes(self, state: State) -> int:
        """Collective: bytes that a checkpoint of all ranks' states takes at most."""
        return needed_bytes(self._exchange, state)

    def require_space(self, state: State) -> None:
        """Collective: raises DiskFullError on every rank if the place cannot hold a checkpoint."""
        require_space(self._place, self._exchange, state)

    def _candidates(self, step: int | None) -> list[str]:
        # One rank looks for all: on network disks each rank may see another listing.
        def look() -> bytes:
            found = committed(self._place)
            return json.dumps([one.folder for one in found if step in (None, one.step)]).encode()

        path = self._place.address()
        try:
            return list(json.loads(share(self._exchange, look)))
        except RanksFailedError as error:
            raise CheckpointError(
                f"checkpoint.path {path} could not be listed: {error}, but resuming needs to know "
                "what is there: mend the path or its permissions.",
                path=path,
            ) from error

    def _manifest(self, folder: str, damaged: list[Damage]) -> Manifest | None:
        path = self._place.address(folder)
        try:
            raw = share(self._exchange, lambda: read_bytes(self._place, f"{folder}/{MANIFEST}"))
            return parse_manifest(self._place, folder, raw)
        except CorruptError as error:
            damaged.append(damage_of(error, path=path))
        except RanksFailedError as error:
            damaged.append(Damage(path=path, file=MANIFEST, reason=str(error)))
        return None

    def _load(
        self,
        folder: str,
        manifest: Manifest,
        state: State,
        specs: dict[str, Spec],
        damaged: list[Damage],
    ) -> bool:
        """Whether the state was loaded; if any rank met damage it was not, and that is noted."""
        path = self._place.address(folder)
        check_match(manifest, specs, path=path)  # the same verdict everywhere: both are shared
        own: Damage | None = None
        staged: dict[str, torch.Tensor] = {}
        rank, size = self._exchange.rank, self._exchange.size
        try:
            staged = read_state(self._place, folder, manifest, state, rank=rank, size=size)
        except (CorruptError, OSError) as error:
            own = damage_of(error, path=path)
        if self._exchange.all_agree(own is None):
            copy_into(state, staged)
            return True
        note = json.dumps(own and dataclasses.asdict(own)).encode()
        notes = filter(None, map(json.loads, self._exchange.gather_bytes(note)))
        damaged.extend(dict.fromkeys(Damage(**fields) for fields in notes))
        return False

    def _none_whole(self, damaged: list[Damage], step: int | None) -> CheckpointError:
        found = "; ".join(f"{one.path}/{one.file}: {one.reason}" for one in damaged)
        return CheckpointError(
            f"checkpoint.path {self._place.address()} holds no whole checkpoint"
            f"{'' if step is None else f' of step {step}'}: {found}; but one is needed to resume: "
            "copy a whole one there, or start anew in another run.dir.",
            path=self._place.address(),
            step=step,
        )

    def _tidy(self) -> None:
        """Retention and debris. The checkpoint is committed, so trouble here is only reported."""
        try:
            for found in _beyond(committed(self._place), self._place, self._keep):
                remove_checkpoint(self._place, found.folder)
            collect_debris(self._place, older_than=_DEBRIS_AGE, now=time.time())
        except OSError as error:
            _logger.warning("Could not tidy %s: %s", self._place.address(), error)


def _beyond(found: list[Found], place: Store, keep: int) -> list[Found]:
    """Checkpoints older than the newest `keep` whole ones; a torn one does not count as one."""
    whole = [one for one in found if one.manifest and _has_files(place, one.folder, one.manifest)]
    gone = steps_to_remove(whole, keep)
    return found[found.index(gone[0]) :] if gone else []


def _has_files(place: Store, folder: str, manifest: Manifest) -> bool:
    try:
        return all(place.size(f"{folder}/{file.name}") == file.bytes for file in manifest.files)
    except FileNotFoundError:
        return False
