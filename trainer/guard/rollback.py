"""Back to a snapshot in memory, in the living processes, past the samples that led to a spike."""

from collections.abc import Callable
from dataclasses import dataclass

from ...checkpoint import Damage, Restored
from ...checkpoint.slots import Image
from ...parallel import Exchange, reshard
from ..build import Job
from ..memory import Memory, forget_after, forget_older, holds
from ..recovery.life import Life
from ..resume import take_over
from ..saving import Saving
from ..state import Progress, State
from .watch import Rolled, Watch


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollback:
    """What going back needs of a run. `snapshot` begins one of the state as it is then."""

    job: Job
    life: Life
    image: Image
    saving: Saving
    state: Callable[[], State]
    snapshot: Callable[[], object]

    def go_back(self, progress: Progress, watch: Watch) -> Rolled | None:
        """Collective: after a step that was not applied and is counted already: `progress` and the
        tensors become those of an earlier step, but for the position in the data, which stays.
        None where no snapshot is whole on all ranks: then nothing is changed. Blocks.

        When it returns, what a later life would find in memory is the state gone back to, with the
        samples left out.
        """
        met, end = progress.step - 1, progress.samples
        self.saving.settle()
        memory = Memory.of_live(self.job, self.image, self.life)
        memory.go_back(
            self.job.config.guard.rollback_snapshots, before=(end - self.job.batch_samples, met)
        )
        restored = _newest(memory, self.state())
        if restored is None:
            return None
        earlier = watch.rolled
        take_over(restored, self.job, self.state(), progress, watch)
        rolled = Rolled(met=met, to=restored.step, first=progress.samples, end=end)
        progress.samples, watch.rolled = end, [*earlier, rolled]
        reshard(self.job.module)
        forget_after(self.life, restored.step)
        self._replace_snapshot(rolled)
        return rolled

    def _replace_snapshot(self, rolled: Rolled) -> None:
        """Collective: the snapshot that was gone back to would lead to the spike again; it goes
        once all ranks have one that does not."""
        self.snapshot()
        self.saving.settle()
        place = rolled.end, rolled.to
        if Exchange(self.job.topology.control).all_agree(holds(self.life, place)):
            forget_older(self.life, place)


def _newest(memory: Memory, state: State) -> Restored | None:
    damaged: list[Damage] = []
    while memory.has_steps:
        if (restored := memory.load(state, damaged)) is not None:
            return restored
    return None
