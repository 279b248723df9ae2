"""How a worker's state gets out of it: at once and by itself, or into slots from which its guardian
saves it while training goes on. When that happens is decided by the loop's votes.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, final

from ..checkpoint import Cargo, Checkpoints
from ..checkpoint.slots import Image, Snapshots
from ..parallel import Exchange
from .build import Job
from .config import RunConfig
from .identity import digest, identity, run_folder
from .recovery.heartbeat import Phase
from .recovery.life import Life
from .state import State
from .telemetry.progress import saved_words
from .telemetry.reporter import Reporter

_POLL_SECONDS = 0.01
# Of a step's time, what snapshots may take before they become rarer, and below which they become
# more frequent again; and of how many snapshots that is judged.
_MOST_SHARE, _LEAST_SHARE, _JUDGED = 0.03, 0.01, 8
_RAREST_STEPS = 256
log = logging.getLogger(__name__)


class Saving(Protocol):
    """What the loop does with the state after a step; `take` is collective where it saves."""

    def is_due(self, step: int) -> bool:
        """Rank 0: whether the state after `step` is to be snapshot."""
        ...

    def owes_save(self) -> bool:
        """Rank 0: whether a save that was due had to be skipped, and could be made now."""
        ...

    def take(
        self,
        state: Callable[[], State],
        cargo: Callable[[], Cargo],
        *,
        is_save: bool = False,
        is_last: bool = False,
    ) -> float:
        """Snapshots the state, and has it saved where `is_save`; the seconds that blocked."""
        ...

    def wait(self) -> float:
        """Blocks until the state may change; the seconds that took."""
        ...

    def settle(self) -> None:
        """Blocks until what was taken is whole in memory."""
        ...

    def note(self, step_seconds: float, blocked_seconds: float) -> None:
        """How long a step took, and how much of that was for snapshots."""
        ...

    def close(self) -> None:
        """Blocks until what was taken is whole; safe twice."""
        ...

    def abandon(self) -> None:
        """As `close`, where something has failed already and nobody wants to hear of more."""
        ...


@final
class LiveSaving:
    """Collective saves that block: for a process without a guardian."""

    def __init__(self, checkpoints: Checkpoints, reporter: Reporter) -> None:
        self._checkpoints = checkpoints
        self._reporter = reporter
        self._parent: str | None = None

    def is_due(self, step: int) -> bool:
        return False

    def owes_save(self) -> bool:
        return False

    def take(
        self,
        state: Callable[[], State],
        cargo: Callable[[], Cargo],
        *,
        is_save: bool = False,
        is_last: bool = False,
    ) -> float:
        load = cargo()
        facts = {**load.lineage, "parent": self._parent or load.lineage.get("parent")}
        saved = self._checkpoints.save(
            state().saved,
            step=load.step,
            topology=load.topology,
            progress=load.progress,
            lineage=facts,
        )
        self._parent = saved.path
        self._reporter.event(
            "checkpoint", saved.step, path=saved.path, bytes=saved.bytes, seconds=saved.seconds
        )
        self._reporter.say(saved_words(saved.step, saved.bytes, saved.seconds))
        return saved.seconds

    def wait(self) -> float:
        return 0.0

    def settle(self) -> None:
        """Nothing is under way."""

    def note(self, step_seconds: float, blocked_seconds: float) -> None:
        """Nothing to adapt."""

    def close(self) -> None:
        """Nothing is under way."""

    def abandon(self) -> None:
        """Nothing is under way."""


@dataclass(slots=True)
class Pace:
    """How many steps lie between snapshots: 1 where copying hides, more where it costs."""

    every: int
    is_fixed: bool
    steps_seconds: float = 0.0
    blocked_seconds: float = 0.0
    snapshots: int = 0

    def note(self, step_seconds: float, blocked_seconds: float) -> bool:
        """Takes in one step; whether `every` has changed."""
        self.steps_seconds += step_seconds
        self.blocked_seconds += blocked_seconds
        if self.is_fixed or self.snapshots < _JUDGED:
            return False
        share = self.blocked_seconds / max(self.steps_seconds, 1e-9)
        before = self.every
        if share > _MOST_SHARE:
            self.every = min(self.every * 2, _RAREST_STEPS)
        elif share < _LEAST_SHARE / 2 and self.every > 1:
            self.every //= 2
        self.steps_seconds = self.blocked_seconds = 0.0
        self.snapshots = 0
        return self.every != before


@final
class SlotSaving:
    """Snapshots into slots; the guardian is told which of them to save.

    Args:
        every: `recovery.snapshot_every`.
    """

    def __init__(self, snapshots: Snapshots, life: Life, every: int | str) -> None:
        self._snapshots = snapshots
        self._life = life
        self._asked = 0
        self._is_owed = False
        self.pace = Pace(1 if every == "auto" else int(every), is_fixed=every != "auto")

    def is_due(self, step: int) -> bool:
        return self.pace.every > 0 and step % self.pace.every == 0

    def owes_save(self) -> bool:
        return self._is_owed and self._snapshots.can_pin

    def take(
        self,
        state: Callable[[], State],
        cargo: Callable[[], Cargo],
        *,
        is_save: bool = False,
        is_last: bool = False,
    ) -> float:
        begun = time.perf_counter()
        load, tensors = cargo(), state().tensors
        while is_last and not self._snapshots.num_free:  # nothing can make up for this one
            self._life.beat(load.step, Phase.save)  # a slow place is no hang
            time.sleep(_POLL_SECONDS)
        pin = is_save and (is_last or self._snapshots.can_pin)
        slot = self._snapshots.begin(tensors, load, pin=pin)
        if is_save:
            place = slot if pin and slot is not None else -1
            self._life.tell("save", serial=self._asked, step=load.step, slot=place, is_last=is_last)
            self._asked += 1
            self._is_owed = place < 0
        self.pace.snapshots += 1
        return time.perf_counter() - begun

    def wait(self) -> float:
        return self._snapshots.wait()

    def settle(self) -> None:
        self._snapshots.settle()

    def note(self, step_seconds: float, blocked_seconds: float) -> None:
        if self.pace.note(step_seconds, blocked_seconds):
            log.debug("A snapshot every %d steps from here on", self.pace.every)

    def close(self) -> None:
        self._snapshots.settle()
        self._snapshots.close()

    def abandon(self) -> None:
        self._snapshots.close()


def image_of(job: Job, state: State, life: Life) -> Image:
    """What a slot of this rank holds; the label tells runs, configurations and layouts apart."""
    label = {
        "run": str(run_folder(job.config).resolve()),
        "config": digest(identity(job.config)),
        "rank": life.world.rank,
        "world_size": life.world.world_size,
        "topology": job.topology.describe(),
    }
    holders, rank = job.topology.holders, life.world.rank
    return Image.of(state.tensors, state.saved, rank=rank, holders=holders, label=label)


def open_saving(
    job: Job, state: State, image: Image, life: Life, reporter: Reporter, *, step: int
) -> Saving:
    """Collective: slots where they are needed and every rank has the memory for them, else saves
    that block.

    Args:
        step: of the state as it is.
    """
    live = LiveSaving(job.checkpoints, reporter)
    if life.slots is None or not _saves_while_training(job.config):
        return live
    snapshots = Snapshots(
        life.slots.named,
        life.slots.unnamed,
        image,
        volatile=state.buffers,
        say=reporter.say,
    )
    trouble = ""
    try:
        snapshots.open(most_bytes=_available_bytes() // life.world.local_world_size)
    except OSError as error:
        trouble = str(error)
    if Exchange(job.topology.control).all_agree(not trouble):
        reporter.event(
            "snapshots", step, bytes=snapshots.num_bytes, slots=job.config.recovery.slots
        )
        return SlotSaving(snapshots, life, job.config.recovery.snapshot_every)
    snapshots.close()
    reporter.say(
        f"snapshots: {trouble or 'another rank has not enough memory'}; none are taken, and saving "
        "a checkpoint blocks the loop"
    )
    return live


def _saves_while_training(config: RunConfig) -> bool:
    """Whether anything is ever to leave a training process before its last step."""
    saves = config.checkpoint
    return (
        config.recovery.snapshot_every != 0
        or saves.every_steps > 0
        or saves.every_seconds != 0
        or bool(saves.at_steps)
        or saves.best_metric is not None
    )


def _available_bytes() -> int:
    """Memory of this machine that can be taken without swapping, less a fifth."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024 * 4 // 5
    return 0
