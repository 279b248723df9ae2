"""Checkpoints: what a run calls to save its state, find it again, and keep the newest few.

Composes this room; owns no format and no thread.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, final

from .claims import OPEN, Fence
from .commit import Cargo, commit, needed_bytes, require_space
from .errors import CheckpointError, CorruptError, SealError, VersionError
from .exchange import Exchange, RanksFailedError, share
from .layout import Local, State
from .listing import committed, parse_manifest
from .manifest import MANIFEST, Manifest
from .part import LivePart
from .prune import tidy
from .reader import Reader, Target, check_match, narrow
from .retention import Keep
from .seal import PLAIN, Seal
from .specs import gather_boxes, gather_specs
from .stores import Store, read_bytes
from .verify import Damage, damage_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Saved:
    """A committed checkpoint: `bytes` of all its files, `seconds` that the save blocked."""

    step: int
    path: str
    bytes: int
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Restored:
    """What was loaded; and in `damaged` the newer ones that were passed over."""

    step: int
    path: str
    progress: dict[str, Any]
    lineage: dict[str, Any]
    damaged: list[Damage]
    left: list[str] = field(default_factory=list)
    """Names of any rank's state that `only` left as they were."""


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
        keep: what stays of what was saved; a number means so many of the newest whole ones.
        holders: global ranks whose saved states have the same names as this rank's, this one
            among them, sorted, such as those of its pipeline stage; None means all.
        fence: who may publish, asked on rank 0.
        seal: what is signed and encrypted, and whose signatures are taken; the same on each rank.
    """

    def __init__(
        self,
        place: Store,
        exchange: Exchange,
        *,
        keep: int | Keep,
        holders: Sequence[int] | None = None,
        fence: Fence = OPEN,
        seal: Seal = PLAIN,
    ) -> None:
        self._place = place
        self._exchange = exchange
        self._keep = Keep(last=keep) if isinstance(keep, int) else keep
        self._fence = fence
        self._seal = seal
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
            FencedError: likewise, if another job or a later generation writes there now.
            CheckpointError: likewise, for any other failure of any rank.
            ValueError: on every rank, before any work, for a dtype or placement that checkpoints
                do not hold, or a name with which two ranks mean different tensors.
        """
        begun = time.monotonic()
        cargo = Cargo(step=step, topology=topology, progress=progress, lineage=lineage)
        part = LivePart(state, self._holders)
        folder, count = commit(self._place, self._exchange, part, cargo, self._fence, self._seal)
        if self._exchange.rank == 0:
            tidy(self._place, self._keep)
        return Saved(
            step=step,
            path=self._place.address(folder),
            bytes=count,
            seconds=time.monotonic() - begun,
        )

    def restore(
        self,
        state: State,
        *,
        step: int | None = None,
        name: str | None = None,
        only: Sequence[str] | None = None,
        in_place: bool = False,
    ) -> Restored | None:
        """Collective: loads the newest whole checkpoint, or the newest whole one of `step`, or
        the one in the folder `name`.

        The state has what this rank is to fill. Its tensors are written only once every rank has
        read and proven its part, which takes as much memory again. None if there is no such
        checkpoint.

        Args:
            only: globs; of state and checkpoint the names that match any are taken, such as the
                weights alone, and the rest is as if it were not there.
            in_place: tensors are read into directly, which saves that memory and its time. Where
                this raises CheckpointError or VersionError then, they hold anything: the caller
                must not go on with them.

        Raises:
            MismatchError: on every rank, if a whole manifest has other names, dtypes or shapes than
                the states of all ranks together; nothing was loaded.
            VersionError: if one is of an unknown format version.
            ValueError: as `save`, or for a glob that no name matches.
            SealError: on every rank, for a checkpoint that is not signed as it must be, or is
                encrypted with another key; no older one is taken for it.
            CheckpointError: if there are checkpoints and none is whole, or none can be listed.
        """
        damaged: list[Damage] = []
        folders = self._candidates(step, name)
        every, held = gather_boxes(self._exchange, state) if folders else ({}, [])
        taken, specs, left = narrow(held, every, only)
        for folder in folders:
            manifest = self._manifest(folder, damaged)
            if manifest is None:
                continue
            path = self._place.address(folder)
            # The same verdict everywhere: both are shared.
            check_match(manifest, specs, path=path, only=only)
            if self._load(folder, manifest, taken, damaged, in_place=in_place):
                return Restored(
                    step=manifest.step,
                    path=path,
                    progress=manifest.progress,
                    lineage=manifest.lineage,
                    damaged=damaged,
                    left=left,
                )
        if folders:
            raise self._none_whole(damaged, step)
        return None

    def steps(self) -> list[tuple[int, str]]:
        """Step and path of each committed checkpoint, newest first, as this rank sees the place."""
        return [(found.step, self._place.address(found.folder)) for found in committed(self._place)]

    def needed_bytes(self, state: State) -> int:
        """Collective: bytes that a checkpoint of all ranks' states takes at most."""
        return needed_bytes(gather_specs(self._exchange, state))

    def require_space(self, state: State) -> None:
        """Collective: raises DiskFullError on every rank if the place cannot hold a checkpoint."""
        require_space(self._place, self._exchange, self.needed_bytes(state))

    def _candidates(self, step: int | None, name: str | None) -> list[str]:
        # One rank looks for all: on network disks each rank may see another listing.
        def look() -> bytes:
            found = [one for one in committed(self._place) if step in (None, one.step)]
            return json.dumps([one.folder for one in found if name in (None, one.folder)]).encode()

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
        except RanksFailedError as error:
            damaged.append(Damage(path=path, file=MANIFEST, reason=str(error)))
            return None
        found: list[Manifest] = []

        def parse() -> None:
            manifest = parse_manifest(self._place, folder, raw, self._seal.check(path))
            self._seal.check_digests(path, manifest)
            found.append(manifest)

        return found[0] if self._all_do(parse, path, damaged) else None

    def _load(
        self,
        folder: str,
        manifest: Manifest,
        held: Sequence[Local],
        damaged: list[Damage],
        *,
        in_place: bool,
    ) -> bool:
        """Whether the boxes were loaded; if any rank met damage it was not, and that is noted."""
        path = self._place.address(folder)
        staged: list[Target] = []

        def read() -> None:
            opener = self._seal.opener(path, folder, manifest)
            reader = Reader(self._place, folder, manifest, opener)
            reader.check_files(rank=self._exchange.rank, size=self._exchange.size)
            if in_place:
                reader.fill(held)
            else:
                staged.extend(reader.stage(held))

        is_whole = self._all_do(read, path, damaged)
        for target in staged if is_whole else ():
            target.settle()
        return is_whole

    def _all_do(self, work: Callable[[], None], path: str, damaged: list[Damage]) -> bool:
        """Collective: whether `work` met no damage on any rank; what it met is noted on all.

        Raises:
            SealError, VersionError: on every rank, where `work` raised one on any.
        """
        own: Damage | None = None
        refusal: SealError | VersionError | None = None
        try:
            work()
        except (SealError, VersionError) as error:
            refusal = error
        except (CorruptError, OSError) as error:
            own = damage_of(error, path=path)
        if self._exchange.all_agree(own is None and refusal is None):
            return True
        said = str(refusal) if isinstance(refusal, SealError) else None
        note = json.dumps([own and dataclasses.asdict(own), said]).encode()
        notes = list(map(json.loads, self._exchange.gather_bytes(note)))
        if refusal is not None:
            raise refusal
        for _, reason in notes:
            if reason is not None:
                raise SealError(reason, path=path)
        damaged.extend(dict.fromkeys(Damage(**fields) for fields, _ in notes if fields))
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
