"""The loop: restore, steps, evaluations, saves, the end. Plain code on one rank; what processes and
generations do around it belongs to recovery/."""

import gc
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import final

import torch
from torch import Tensor

from ..checkpoint import is_save_due
from ..data import Cursor, Loader, Window
from ..parallel import (
    Balance,
    Exchange,
    Role,
    begin_sum,
    canonical_name,
    gradient_groups,
    leave,
    lent_parameters,
    max_,
    reshard,
)
from .build import Job, build
from .config import RunConfig
from .errors import StoppedError
from .evaluate import evaluate
from .forward_backward import Divisor
from .history import NormHistory
from .identity import checkpoint_folder, config_digest, run_folder
from .optim import LearningRates, forget_state, materialise_state
from .recipe import MakeRecipe
from .recovery.chaos import Chaos
from .recovery.heartbeat import Phase
from .recovery.life import Life
from .recovery.verdict import EXIT_FINISHED, EXIT_PREEMPTED
from .resume import resume
from .schedule import scale
from .seeds import seed_of
from .skipped import Skipped
from .state import Progress, State, digest, gather_state
from .telemetry.lineage import lineage
from .telemetry.reporter import Reporter, StepReport
from .telemetry.stall import by_cause
from .update import Updater, Verdict

_COLLECT_EVERY_STEPS = 50
_COUNTED_STEPS = 50


@final
class Trainer:
    """One rank's training in one generation. `fit` is the face; the rest is its steps in order."""

    def __init__(self, job: Job, life: Life) -> None:
        config, rank = job.config, life.world.rank
        self.job = job
        self.life = life
        self.progress = Progress()
        self.exchange = Exchange(job.topology.control)
        self.lazy = materialise_state(job.optimizer)
        self.rates = LearningRates(job.optimizer)
        self.lent = lent_parameters(job.module, job.plan)
        self.balance = Balance(job.module, job.plan, job.topology)
        groups, copies = gradient_groups(job.module, job.plan, self.exchange)
        self.updater = Updater(
            groups,
            copies,
            job.optimizer,
            job.topology,
            clip_norm=config.optim.clip_norm,
            scale=job.scale,
            end_step=self.balance.end_step,
        )
        self.reporter = Reporter.of(config, job.plan, job.device, life)
        self.chaos = Chaos(
            config.chaos.plan,
            rank=rank,
            folder=run_folder(config) / "chaos",
            checkpoints=checkpoint_folder(config),
        )
        self.norms = NormHistory()
        self.skipped = Skipped(job.recipe.skips, self.exchange)
        self.saved_at = time.monotonic()
        self.parent: str | None = None
        self.eval_loss: float | None = None
        self.outage: str | None = None

    @classmethod
    def fit(cls, config: RunConfig, make_recipe: MakeRecipe, life: Life) -> int:
        """Collective: trains to `train.steps`, or until the run is asked to end; blocks.

        Returns:
            The exit code: 0 finished, 75 preempted and saved.
        """
        job = build(config, make_recipe, life)
        gc.disable()  # a pause of one rank stops them all: collected at the same steps instead
        try:
            code = cls(job, life).run()
        finally:
            gc.enable()
            job.loader.close()
            if job.recipe.close is not None:
                job.recipe.close()
        leave()  # not after an error: with a dead peer it would block, and the process ends anyway
        return code

    def run(self) -> int:
        """Restores what there is, then trains; the exit code."""
        self.life.beat(0, Phase.restore)
        state = self._state()
        restored = resume(
            self.job, state, self.progress, self.norms, self.life, skipped=self.skipped
        )
        self.parent = restored.path if restored else None
        self.reporter.begin(self.progress.step, restored)
        if self._is_finished():
            self.reporter.say("this run is finished; its summary is unchanged")
            return EXIT_FINISHED
        if self.life.generation == 0:
            self.job.checkpoints.require_space(state.saved)
        if restored is None:
            forget_state(self.job.optimizer, self.lazy)
        with self.job.loader.open(self.progress.samples) as windows:
            while self.progress.step < self.job.config.train.steps:
                verdict = self._step(windows)
                if verdict.is_stop:
                    return self._preempt(verdict)
        return self._finish()

    def _state(self) -> State:
        """The live tensors of the run. What the optimizer has not made yet, since no step was
        applied or a parameter had no gradient, is made here."""
        if any(parameter not in self.job.optimizer.state for parameter in self.lazy):
            materialise_state(self.job.optimizer)
        return gather_state(self.job.module, self.job.optimizer, self.lent)

    def _is_finished(self) -> bool:
        """Collective: whether all is done and said; rank 0 knows, since only it writes."""
        done = self.progress.step >= self.job.config.train.steps and self.reporter.is_finished
        return bool(max_(torch.tensor(int(done)), self.job.topology.control))

    def _step(self, windows: Loader) -> Verdict:
        """One optimizer step and what is due after it."""
        started, step = time.perf_counter(), self.progress.step
        self.life.beat(step, Phase.data)
        self.chaos.strike(step)
        window = windows.take(lambda outage: self._wait_for_data(step, outage))
        waited = time.perf_counter() - started
        self._data_is_here(step)
        self.skipped.tell(lambda bad: self.reporter.event("bad_record", step, **asdict(bad)))
        self.life.beat(step, Phase.step)
        count = begin_sum(self._own_targets(window), self.job.topology.group(Role.DATA))
        part = self._loss_part(window, lambda: max(1, count()))
        lr = self.rates.set(
            scale(self.job.config.schedule, step=step, steps=self.job.config.train.steps)
        )
        verdict = self.updater.update(
            part, wants_stop=self.life.stop_requested(), wants_save=self._is_save_due()
        )
        targets = count()
        score = self.norms.score(verdict.grad_norm)
        self._advance(verdict, targets)
        seconds = time.perf_counter() - started
        saving = self._save() if verdict.is_save and not verdict.is_stop else 0.0
        self.reporter.step(
            StepReport(
                step=self.progress.step,
                loss=verdict.loss,
                grad_norm=verdict.grad_norm,
                grad_norm_score=score,
                grad_norms=verdict.group_norms
                if self.job.config.telemetry.gradient_groups
                else None,
                lr=lr,
                tokens=self.progress.tokens,
                tokens_per_second=targets / seconds,
                step_seconds=seconds,
                data_seconds=waited,
                data_causes=by_cause(waited, window.seconds),
                snapshot_seconds=saving,
                data=self._data_counts(),
                router=self.balance.statistics(),
            )
        )
        self._after_step(verdict)
        return verdict

    def _data_counts(self) -> dict[str, float] | None:
        """Now and then, since a line a step of these would be most of the file."""
        is_due = self.reporter.is_speaker and self.progress.step % _COUNTED_STEPS == 0
        return (self.job.loader.counts or None) if is_due else None

    def _wait_for_data(self, step: int, outage: str | None) -> None:
        """Once a second while a step waits for its data, which is no hang."""
        self.life.beat(step, Phase.data)
        if outage and not self.outage:
            self.reporter.event("outage", step, reason=outage)
            self.reporter.say(f"waiting for data: the store does not answer ({outage})")
        self.outage = outage or self.outage

    def _data_is_here(self, step: int) -> None:
        if self.outage:
            self.outage = None
            self.reporter.event("outage_over", step)
            self.reporter.say("the store answers again; training goes on")

    def _own_targets(self, window: Window) -> int:
        """Valid targets of this rank's share of the step."""
        return sum(self.job.recipe.targets(batch) for batch in window.batches)

    def _loss_part(self, window: Window, targets: Callable[[], int]) -> Tensor:
        """Leaves the step's gradient in the parameters; this rank's part of the step's loss."""
        job, step = self.job, self.progress.step
        divisor = Divisor(targets, job.scale.scale)
        self.balance.begin_step(lambda: divisor.unit)
        part = job.runner.run(
            window,
            divisor,
            seed_of(job.config.train.seed, step, job.random_place),
        )
        # The ranks that share matrices have one loss between them.
        return part if job.topology.coordinates()["tensor"] == 0 else torch.zeros_like(part)

    def _is_save_due(self) -> bool:
        if self.life.world.rank != 0:
            return False
        since = time.monotonic() - self.saved_at
        step, config = self.progress.step + 1, self.job.config
        is_last = step == config.train.steps
        due = is_save_due(step, seconds_since_save=since, config=config.checkpoint)
        return due and not is_last  # the end saves for itself

    def _advance(self, verdict: Verdict, targets: int) -> None:
        self.progress.step += 1
        self.progress.samples += self.job.batch_samples
        self.progress.tokens += targets
        if verdict.applied:
            self.norms.add(verdict.grad_norm)
        if verdict.is_overflow:  # the loss scale's search, no fault of the run
            self.progress.overflows += 1
        else:
            self.progress.skips += not verdict.applied
            self.progress.skips_in_row = 0 if verdict.applied else self.progress.skips_in_row + 1

    def _after_step(self, verdict: Verdict) -> None:
        step, config = self.progress.step, self.job.config.train
        if verdict.is_overflow:
            self.reporter.event("overflow", step, loss_scale=self.job.scale.scale)
        elif not verdict.applied:
            self.reporter.event("skip", step, reason="loss or gradient norm is not finite")
            if self.progress.skips_in_row > config.max_skips:
                raise StoppedError(
                    f"train.max_skips: found {self.progress.skips_in_row} steps in a row, up to "
                    f"step {step}, whose loss or gradient norm is not finite, needed at most "
                    f"{config.max_skips}; lower optim.lr or look at the data, then start again: "
                    "the newest checkpoint is taken"
                )
        if config.eval_every and step % config.eval_every == 0 and step < config.steps:
            self._evaluate()
        if step % _COLLECT_EVERY_STEPS == 0:
            gc.collect()

    def _evaluate(self) -> None:
        if self.job.eval_source is None:
            return
        self.eval_loss = evaluate(
            self.job.module,
            self.job.eval_source,
            self.job.recipe,
            self.job.topology,
            device=self.job.device,
            microbatch_samples=self.job.config.train.microbatch_samples,
            beat=lambda: self.life.beat(self.progress.step, Phase.evaluate),
        )
        self.reporter.event("eval", self.progress.step, loss=self.eval_loss)
        self.reporter.say(f"step {self.progress.step}: eval loss {self.eval_loss:.4f}")

    def _save(self) -> float:
        """Collective: commits a checkpoint; the seconds it blocked."""
        self.life.beat(self.progress.step, Phase.save)
        cursor, skips = Cursor(self.job.order, self.progress.samples), self.skipped.agree()
        facts = lineage(
            config_digest=config_digest(self.job.config),
            data_digest=self.job.order.source,
            seed=self.job.config.train.seed,
            parent=self.parent,
        )
        saved = self.job.checkpoints.save(
            self._state().saved,
            step=self.progress.step,
            topology={**self.job.topology.describe(), "world_size": self.life.world.world_size},
            progress={
                **self.progress.state_dict(),
                "data": {**cursor.state_dict(), "skips": skips},
                "loss_scale": self.job.scale.state_dict(),
                "grad_norms": self.norms.state_dict(),
            },
            lineage=facts,
        )
        self.saved_at, self.parent = time.monotonic(), saved.path
        self.reporter.event(
            "checkpoint", saved.step, path=saved.path, bytes=saved.bytes, seconds=saved.seconds
        )
        return saved.seconds

    def _preempt(self, verdict: Verdict) -> int:
        self._save()
        self.reporter.event("preemption", self.progress.step, path=self.parent)
        self.reporter.say(
            f"asked to end: step {self.progress.step} is saved; the same command goes on"
        )
        return EXIT_PREEMPTED

    def _parameter_count(self) -> int:
        """Collective: elements of the whole model, tied ones once."""
        named = self.job.module.named_parameters()
        own = sum(p.numel() for name, p in named if canonical_name(name) not in self.lent)
        return begin_sum(own, self.job.topology.group(Role.STAGE))()

    def _finish(self) -> int:
        """The last save, the last evaluation, the summary."""
        if self.job.config.checkpoint.at_end:
            self._save()
        self._evaluate()
        self.life.beat(self.progress.step, Phase.finish)
        extra = self.job.recipe.finish(self.job.module) if self.job.recipe.finish else {}
        reshard(self.job.module)
        self.reporter.finish(
            self.progress,
            eval_loss=self.eval_loss,
            state_digest=digest(self._state().saved, self.exchange),
            parameters=self._parameter_count(),
            data=self.job.loader.counts,
            extra=extra,
        )
        return EXIT_FINISHED
