"""The guards of one rank's training, as the loop asks them: before the step's first backward, after
its verdict, and before its state is kept."""

import contextlib
from collections.abc import Callable
from dataclasses import asdict
from typing import final

from torch import Tensor

from ...data import Window
from ...parallel import Exchange
from ..build import Job
from ..errors import CorruptPeerError, CorruptRankError, StoppedError
from ..memory import forget_after
from ..recovery.life import Life
from ..state import Progress, State
from ..telemetry.files import append_line
from ..telemetry.reporter import Reporter
from ..update import Verdict
from .bits import BITS, Bits
from .config import OnSpike
from .findings import Odd, Spike
from .positions import described, positions
from .replay import Replayed, chosen, replay
from .replicas import compare
from .rollback import Rollback
from .stragglers import Stragglers
from .watch import Rolled, Watch


@final
class Guard:
    """What it finds it tells in events, and answers as `guard` is set."""

    def __init__(
        self, job: Job, life: Life, reporter: Reporter, progress: Progress, watch: Watch
    ) -> None:
        self.job = job
        self.life = life
        self.reporter = reporter
        self.progress = progress
        self.watch = watch
        self.config = job.config.guard
        self.rollback: Rollback | None = None
        """From when on there are snapshots to go back to."""
        self.stragglers = Stragglers(job.config.recovery, job.topology, life, reporter)
        self._replayed = Replayed([], [])

    def replay(self, window: Window, run: Callable[[Window], Tensor]) -> None:
        """Collective: where that is due, has `run` compute a part of the step twice."""
        self._replayed, step = Replayed([], []), self.progress.step
        if self.config.replay_every and (step + 1) % self.config.replay_every == 0:
            part = chosen(window, self.job.passes, seed=self.job.config.train.seed, step=step)
            self._replayed = replay(self.job.module, lambda: run(part))

    @property
    def odd(self) -> Odd:
        """What the last replay says of this rank."""
        return self._replayed.odd

    def check(self, verdict: Verdict) -> None:
        """After a step's verdict.

        Raises:
            CorruptRankError, CorruptPeerError: a rank's replay differed.
        """
        if verdict.odd is Odd.none:
            return
        found = self._replayed
        tensors = found.own or found.shared
        self._answer_corruption(
            self.progress.step + 1,
            tensors if self.odd is verdict.odd else [],
            f"computed {_some(tensors)} of a micro-batch differently a second time",
        )

    def goes_back(self, verdict: Verdict) -> bool:
        """Collective: after a step that is counted; where it met a spike for which the run goes
        back, does so, and says whether it did.

        Raises:
            StoppedError: the run is not to go on with spikes, or not with so many.
        """
        if (spike := verdict.spike) is None or self.config.on_spike is OnSpike.skip:
            return False
        end, size = self.progress.samples, self.job.batch_samples
        if self.config.on_spike is OnSpike.stop:
            raise StoppedError(self._stop_words(spike))
        if self.watch.is_too_often(end - size, size):
            raise StoppedError(self._too_often_words(spike))
        rolled = self.rollback.go_back(self.progress, self.watch) if self.rollback else None
        if rolled is None:
            return False
        where = positions(self.job.order, rolled.first, rolled.end)
        self._tell(
            "rollback", rolled.to, **{"from": rolled.met, "to": rolled.to}, **asdict(spike), **where
        )
        self.reporter.say(
            f"step {rolled.met}: {spike}; back to step {rolled.to}, without {self._samples(rolled)}"
        )
        return True

    def tell_skip(self, verdict: Verdict) -> None:
        """Of a step that was not applied, and is counted.

        Raises:
            StoppedError: it is one too many in a row.
        """
        progress, most = self.progress, self.job.config.train.max_skips
        step, first = progress.step, progress.samples - self.job.batch_samples
        where = positions(self.job.order, first, progress.samples)
        spike = verdict.spike
        facts = asdict(spike) if spike else {}
        reason = str(spike or "loss or gradient norm is not finite")
        self._tell("skip", step, reason=reason, **facts, **where)
        self.reporter.say(f"step {step}: skipped, {reason}")
        if progress.skips_in_row > most:
            fault = "stands out" if spike else "is not finite"
            raise StoppedError(
                f"train.max_skips: found {progress.skips_in_row} steps in a row, up to step {step} "
                f"({described(self.job.order, first, progress.samples)}), whose loss or gradient "
                f"norm {fault}, needed at most {most}; lower optim.lr or look at the data, then "
                "start again: the newest checkpoint is taken"
            )

    def compare_if_due(self, state: Callable[[], State]) -> None:
        """As `compare`, at the steps at which the setting wants it; and notes the state's bits at
        those of `telemetry.bits_every`."""
        step, bits_every = self.progress.step, self.job.config.telemetry.bits_every
        if bits_every and step % bits_every == 0:
            found = Bits(self.job.topology).of(state().saved)
            if self.life.world.rank == 0:
                append_line(self.reporter.folder / BITS, {"step": step, "bits": found})
        if self.config.compare_every and step % self.config.compare_every == 0:
            self.compare(state)

    def compare(self, state: Callable[[], State]) -> None:
        """Collective: before a state is kept for good; has copies of parameters compared, unless
        they have been, or there are none.

        Raises:
            CorruptRankError, CorruptPeerError: they differ; what was snapshot since they were last
                equal is gone.
        """
        step, has_copies = self.progress.step, self.job.topology.degrees.replicate > 1
        if not (self.config.compare_every and has_copies) or step == self.watch.compared:
            return
        odd = compare(state().parameters, self.job.topology)
        if not odd:
            self.watch.compared = step
            return
        if self.rollback is not None:
            self.rollback.saving.settle()
        forget_after(self.life, self.watch.compared)
        tensors = odd.get(self.life.world.rank, [])
        self._answer_corruption(
            step,
            tensors,
            f"holds other bits of {_some(tensors)} than ranks that have copies of it",
        )

    def _answer_corruption(self, step: int, tensors: list[str], found: str) -> None:
        """Collective: never returns. Nobody ends the generation before all know of themselves."""
        rank = self.life.world.rank
        if tensors:
            self.reporter.events.write(
                "corruption",
                step=step,
                generation=self.life.generation,
                tensors=tensors,
                reason=found,
            )
        with contextlib.suppress(RuntimeError):  # who was quicker has ended it
            Exchange(self.job.topology.control).all_agree(True)
        if not tensors:
            raise CorruptPeerError(f"step {step}: another rank's bits are wrong")
        raise CorruptRankError(
            f"rank {rank}, step {step}: found that it {found}, needed the same bits; should it "
            "come again, look at this rank's machine, or, where kernels add in no fixed order, set "
            "guard.replay_every=0",
            rank=rank,
            step=step,
            tensors=tensors,
        )

    def _tell(self, kind: str, step: int, **fields: object) -> None:
        self.reporter.event(kind, step, **fields)

    def _samples(self, rolled: Rolled) -> str:
        return described(self.job.order, rolled.first, rolled.end)

    def _met(self, spike: Spike) -> str:
        end = self.progress.samples
        where = described(self.job.order, end - self.job.batch_samples, end)
        return f"at step {self.progress.step - 1} in {where}: {spike}"

    def _stop_words(self, spike: Spike) -> str:
        return (
            f"guard.on_spike=stop: found a spike {self._met(spike)}, needed none; look at those "
            "samples, lower optim.lr, or set guard.on_spike=skip, then start again: the newest "
            "checkpoint is taken"
        )

    def _too_often_words(self, spike: Spike) -> str:
        config, rolled = self.config, self.watch.rolled[-3:]
        before = "; ".join(self._samples(one) for one in rolled)
        return (
            f"guard.max_rollbacks: found one more spike than {config.max_rollbacks} within "
            f"{config.rollback_steps} steps, the last {self._met(spike)}; left out before: "
            f"{before or 'none'}; needed at most {config.max_rollbacks}; look at those samples or "
            "lower optim.lr, then start again: the newest checkpoint is taken"
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
