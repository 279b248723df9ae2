"""The loop: restore, steps, evaluations, saves, the end. Plain code on one rank; what processes and
generations do around it belongs to recovery/."""

import gc
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, final

import torch
from torch import Tensor

from ..checkpoint import Cadence, Cargo, Restored
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
from .ema import Ema
from .evaluate import evaluate_job
from .forward_backward import Divisor
from .guard.guard import Guard
from .guard.rollback import Rollback
from .guard.watch import Watch
from .identity import planned_faults
from .initial import begin_anew
from .optim import LearningRates, forget_state, materialise_state
from .provenance import Provenance
from .recipe import MakeRecipe
from .recovery.books import Account, Books
from .recovery.config import FaultPhase
from .recovery.heartbeat import Phase
from .recovery.life import Life
from .recovery.verdict import EXIT_FINISHED, EXIT_PREEMPTED
from .resume import is_kept, parent_of, resume
from .saving import LiveSaving, Saving, image_of, open_saving
from .schedule import scale
from .seeds import seed_of
from .skipped import Skipped
from .state import Progress, State, digest, gather_state
from .sums import PlainSums
from .telemetry.reporter import Reporter, StepReport
from .telemetry.stall import by_cause
from .update import Updater, Verdict

_COLLECT_EVERY_STEPS = 50
_COUNTED_STEPS = 50


@final
class Trainer:
    """One rank's training in one generation. `fit` is the face; the rest is its steps in order."""

    def __init__(self, job: Job, life: Life) -> None:
        config = job.config
        self.job = job
        self.life = life
        self.progress = Progress()
        self.watch = Watch(config.guard)
        self.exchange = Exchange(job.topology.control)
        self.lazy = materialise_state(job.optimizer)
        self.rates = LearningRates(job.optimizer)
        self.lent = lent_parameters(job.module, job.plan)
        self.live: State | None = None
        self.balance = Balance(job.module, job.plan, job.topology)
        self.ema = Ema(job.module, config.optim.ema_decay) if config.optim.ema_decay else None
        groups, copies = gradient_groups(job.module, job.plan, self.exchange)
        self.updater = Updater(
            job.exact.sums(groups) if job.exact else PlainSums(groups),
            copies,
            job.optimizer,
            job.topology,
            clip_norm=config.optim.clip_norm,
            scale=job.scale,
            end_step=self._end_step,
            wait=lambda: self.saving.wait(),
            judge=self.watch.judge,
        )
        self.reporter = Reporter.of(config, job.plan, job.device, life)
        self.provenance = Provenance(job, life)
        self.chaos = planned_faults(config, life)
        self.guard = Guard(job, life, self.reporter, self.progress, self.watch)
        self.skipped = Skipped(job.recipe.skips, self.exchange)
        self.cadence = Cadence(
            config.checkpoint, processes=life.world.world_size, now=time.monotonic()
        )
        self.metrics: dict[str, float] = {}
        self.books = Books(life.page)
        self.compiles = bool(config.memory.compile)
        self.saving: Saving = LiveSaving(job.checkpoints, self.reporter)
        self.kept_seconds = 0.0
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
        trainer = cls(job, life)
        try:
            code = trainer.run()
            trainer.saving.close()
        finally:
            gc.enable()
            trainer.saving.abandon()
            trainer.reporter.speaker.close()
            job.loader.close()
        leave()  # not after an error: with a dead peer it would block, and the process ends anyway
        return code

    def run(self) -> int:
        """Restores what there is, then trains; the exit code."""
        self.life.beat(0, Phase.restore)
        self.books.book(Account.restore if self.life.generation else Account.init)
        state = self._state()
        image = image_of(self.job, state, self.life)
        restored = resume(
            self.job,
            state,
            self.progress,
            self.watch,
            self.life,
            image=image,
            skipped=self.skipped,
        )
        parent = parent_of(restored) if restored else begin_anew(self.job, state)
        self.cadence.best = restored.progress.get("best") if restored else None
        self.provenance.begin(self.progress, parent, is_new=restored is None)
        self.reporter.begin(self.progress.step, restored)
        if self._is_finished(restored):
            self.reporter.say("this run is finished; its summary is unchanged")
            return EXIT_FINISHED
        if self.life.generation == 0:
            self.job.checkpoints.require_space(state.saved)
        self.saving = open_saving(
            self.job, state, image, self.life, self.reporter, step=self.progress.step
        )
        self.guard.rollback = Rollback(
            job=self.job,
            life=self.life,
            image=image,
            saving=self.saving,
            state=self._state,
            snapshot=self._snapshot,
        )
        if restored is None:
            forget_state(self.job.optimizer, self.lazy)
        self.books.book(Account.restore if restored else Account.init)
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
        if self.live is None or not self.live.is_current(self.job.optimizer):
            averages = self.ema.averages if self.ema else None
            self.live = gather_state(self.job.module, self.job.optimizer, self.lent, averages)
        return self.live

    def _end_step(self, applied: bool) -> None:
        """What the verdict of a step moves beside the parameters."""
        self.balance.end_step(applied)
        if self.job.exact:
            self.job.exact.grid.end_step()
        if self.ema and applied:
            self.ema.update()

    def _is_finished(self, restored: Restored | None) -> bool:
        """Collective after the last step: whether all is done, said and kept; rank 0 knows, since
        only it writes."""
        if self.progress.step < self.job.config.train.steps:
            return False
        done = self.reporter.is_finished
        if done and restored is not None:
            done = is_kept(self.job.config, self.life, restored)
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
        parts = self._loss_parts(window, lambda: max(1, count()))
        self.chaos.strike(step, FaultPhase.step)
        lr = self.rates.set(
            scale(self.job.config.schedule, step=step, steps=self.job.config.train.steps)
        )
        verdict = self.updater.update(
            parts,
            wants_stop=self.life.stop_requested(),
            wants_save=self._is_save_due(),
            wants_snapshot=self._is_snapshot_due(),
            wants_look=self.guard.stragglers.is_due(),
            odd=self.guard.odd,
        )
        self.guard.check(verdict)
        self.chaos.flip(step, self.updater.parameters)
        targets = count()
        self._advance(verdict, targets)
        seconds = time.perf_counter() - started
        # Before its state can be gone on from: a kill in between would leave it without a line.
        self.reporter.step(
            StepReport(
                step=self.progress.step,
                loss=verdict.loss,
                grad_norm=verdict.grad_norm,
                grad_norm_score=self.watch.norm_score,
                redone=(self.job.exact and self.job.exact.is_redone) or None,
                grad_norms=verdict.group_norms
                if self.job.config.telemetry.gradient_groups
                else None,
                lr=lr,
                tokens=self.progress.tokens,
                tokens_per_second=targets / seconds,
                step_seconds=seconds,
                data_seconds=waited,
                data_causes=by_cause(waited, window.seconds),
                snapshot_seconds=verdict.waited + self.kept_seconds,
                data=self._data_counts(),
                router=self.balance.statistics(),
            )
        )
        self.books.book_step(
            self.progress.step, data=waited, snapshot=verdict.waited, compiles=self.compiles
        )
        self.compiles = False
        if self.guard.goes_back(verdict):
            self.books.book(Account.restore)
            return verdict
        self.guard.compare_if_due(self._state)
        self.kept_seconds = self._keep(verdict)
        self.books.book(Account.save if verdict.is_save else Account.snapshot)
        self.saving.note(seconds, verdict.waited + self.kept_seconds)
        self._after_step(verdict)
        self.guard.stragglers.look(self.progress.step, verdict)
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

    def _loss_parts(self, window: Window, targets: Callable[[], int]) -> Tensor:
        """Leaves the step's gradient in the parameters; parts of the loss, by micro-batch."""
        job, step = self.job, self.progress.step
        divisor = Divisor(targets, job.scale.scale * self.chaos.boost(step))
        self.balance.begin_step(lambda: divisor.unit)
        seeds = seed_of(job.config.train.seed, step, job.random_place)
        self.guard.replay(window, lambda some: job.passes.run(some, divisor, seeds))
        parts = self.chaos.poisoned(step, job.runner.run(window, divisor, seeds))
        # The ranks that share matrices have one loss between them.
        return parts if job.topology.coordinates()["tensor"] == 0 else torch.zeros_like(parts)

    def _is_save_due(self) -> bool:
        if self.life.world.rank != 0:
            return False
        step, failures = self.progress.step + 1, self.life.generation
        due = self.cadence.is_due(step, now=time.monotonic(), failures=failures)
        due |= self.saving.owes_save()
        return due and step != self.job.config.train.steps  # the end saves for itself

    def _is_snapshot_due(self) -> bool:
        step = self.progress.step + 1
        is_last = step == self.job.config.train.steps
        return self.life.world.rank == 0 and not is_last and self.saving.is_due(step)

    def _is_evaluation_due(self) -> bool:
        step, config = self.progress.step, self.job.config.train
        return bool(config.eval_every) and step % config.eval_every == 0 and step < config.steps

    def _waits_for_evaluation(self) -> bool:
        """Whether the evaluation that follows this step decides what is saved, and goes with it."""
        by_it = self.job.config.checkpoint.best_metric == "eval_loss"
        return by_it and self.job.eval_source is not None and self._is_evaluation_due()

    def _is_best(self) -> bool:
        """Collective: whether rank 0 has seen no better evaluation; others may round otherwise."""
        is_best = self.cadence.is_best(self.metrics) and self.life.world.rank == 0
        return bool(max_(torch.tensor(int(is_best)), self.job.topology.control))

    def _advance(self, verdict: Verdict, targets: int) -> None:
        self.progress.step += 1
        self.progress.samples += self.job.batch_samples
        self.progress.tokens += targets
        self.metrics = {"loss": verdict.loss}
        if verdict.applied:
            self.watch.add(verdict.loss, verdict.grad_norm)
        if verdict.is_overflow:  # the loss scale's search, no fault of the run
            self.progress.overflows += 1
        else:
            self.progress.skips += not verdict.applied
            self.progress.skips_in_row = 0 if verdict.applied else self.progress.skips_in_row + 1

    def _after_step(self, verdict: Verdict) -> None:
        step = self.progress.step
        if verdict.is_overflow:
            self.reporter.event("overflow", step, loss_scale=self.job.scale.scale)
        elif not verdict.applied:
            self.guard.tell_skip(verdict)
        if self._is_evaluation_due():
            self._evaluate()
            decides = self._waits_for_evaluation() and not verdict.is_stop
            if decides and (self._is_best() or verdict.is_save):
                self._save()
        if step % _COLLECT_EVERY_STEPS == 0:
            gc.collect()

    def _evaluate(self) -> None:
        step = self.progress.step
        self.chaos.strike(step - 1, FaultPhase.evaluate)
        found = evaluate_job(
            self.job,
            self.ema if self.job.config.optim.ema_eval else None,
            wait=self.saving.wait,
            beat=lambda: self.life.beat(step, Phase.evaluate),
        )
        self.books.book(Account.eval)
        if found is None:
            return
        self.eval_loss = self.metrics["eval_loss"] = found
        self.reporter.event("eval", step, loss=found)
        self.reporter.say(f"step {step}: eval loss {found:.4f}")

    def _keep(self, verdict: Verdict) -> float:
        """What is due of the state after a step, saved or snapshot; the seconds that blocked."""
        if verdict.is_stop:
            return 0.0  # the end saves for itself
        if verdict.is_save and not self._waits_for_evaluation():
            return self._save()
        return self._snapshot() if verdict.is_snapshot else 0.0

    def _snapshot(self) -> float:
        """Begins one of the state as it is; the seconds that blocked."""
        own = self.skipped.state_dict()
        return self.saving.take(self._state, lambda: self._cargo(own, {}))

    def _save(self, *, is_last: bool = False) -> float:
        """Collective: has a checkpoint of the state made; the seconds that blocked."""
        self.life.beat(self.progress.step, Phase.save)
        self.chaos.strike(self.progress.step - 1, FaultPhase.save)
        self.guard.compare(self._state)
        skips, facts = self.skipped.agree(), self.provenance.facts()
        seconds = self.saving.take(
            self._state, lambda: self._cargo(skips, facts), is_save=True, is_last=is_last
        )
        self.cadence.saved(now=time.monotonic(), cost_seconds=seconds)
        return seconds

    def _cargo(self, skips: list[dict[str, Any]], facts: dict[str, Any]) -> Cargo:
        """What goes with the tensors."""
        cursor = Cursor(self.job.order, self.progress.samples)
        return Cargo(
            step=self.progress.step,
            topology={**self.job.topology.describe(), "world_size": self.life.world.world_size},
            progress={
                **self.progress.state_dict(),
                "data": {**cursor.state_dict(), "skips": skips},
                "loss_scale": self.job.scale.state_dict(),
                **self.watch.state_dict(),
                **(self.job.exact.state_dict() if self.job.exact else {}),
                "metrics": {k: value for k, value in self.metrics.items() if math.isfinite(value)},
                "best": self.cadence.best,
            },
            lineage=facts,
        )

    def _preempt(self, verdict: Verdict) -> int:
        self._save(is_last=True)
        self.reporter.event("preemption", self.progress.step)
        self.reporter.say(
            f"asked to end: saving step {self.progress.step}; the same command goes on"
        )
        return EXIT_PREEMPTED

    def _parameter_count(self) -> int:
        """Collective: elements of the whole model, tied ones once."""
        named = self.job.module.named_parameters()
        own = sum(p.numel() for name, p in named if canonical_name(name) not in self.lent)
        return begin_sum(own, self.job.topology.group(Role.STAGE))()

    def _finish(self) -> int:
        """The last save, the last evaluation, the summary."""
        is_first = self.job.config.checkpoint.best_metric == "eval_loss"
        if is_first:  # the last checkpoint says how good it is
            self._evaluate()
        if self.job.config.checkpoint.at_end:
            self._save(is_last=True)
        self.books.book(Account.save)
        if not is_first:
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
