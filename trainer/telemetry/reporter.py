"""What the loop reports: metrics and events into the run's folder, the progress line, the summary.
Rank 0 writes; on other ranks it is silent, so that the loop need not ask."""

import json
import statistics
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ...checkpoint import Restored
from ...parallel import Plan
from ..config import RunConfig
from ..identity import run_folder
from ..recovery.books import Books
from ..recovery.ledger import goodput, goodput_of, last_of_each_step, read_lines
from ..recovery.life import Life
from ..state import Progress
from .energy import energy_of, meters_of_node
from .events import Events
from .files import append_line, write_atomically
from .flops import peak_flops
from .progress import Shown, Speaker
from .sampler import Sampler
from .speaker import speaker_of
from .stall import Stalls

SUMMARY = "summary.json"
_CPU = torch.device("cpu")
_ENERGY_SECONDS = 30.0
_RECENT = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    """One line of metrics.jsonl; `tokens` counts from the run's start, the rest is of the step."""

    step: int
    loss: float
    grad_norm: float
    grad_norm_score: float | None
    """Robust standard deviations above the last steps' norms; None while these are few."""
    lr: float
    tokens: int
    tokens_per_second: float
    step_seconds: float
    data_seconds: float
    data_causes: dict[str, float]
    """The same by what the data waited for: network, lock, decode, transform."""
    snapshot_seconds: float
    """For which snapshots and saves held the loop up since the line before."""
    redone: bool | None = None
    """True where parallel.exact had to run the step's micro-batches twice, a larger gradient than
    it had expected among them; the step took as much longer."""
    grad_norms: dict[str, float] | None = None
    """Norm by block, where telemetry.gradient_groups asks for it."""
    data: dict[str, float] | None = None
    """What rank 0's data counted since its process began: bytes by tier, requests, hedges, retries,
    amplification; now and then, and only where data comes from a store."""
    router: dict[str, float] = field(default_factory=dict)
    """Of a model with experts: further keys of the line, as `Balance.statistics` names them."""


class Reporter:
    """Final. Nothing in it is collective, nothing blocks but small appends to local files."""

    def __init__(
        self,
        folder: Path,
        speaker: Speaker,
        life: Life,
        *,
        steps: int,
        model_flops: float | None,
        device: torch.device = _CPU,
        grams_per_kwh: float | None = None,
    ) -> None:
        self.folder = folder
        self.speaker = speaker
        self.life = life
        self.steps = steps
        self.model_flops = model_flops
        self.events = Events(folder, rank=life.world.rank)
        self.is_speaker = life.world.rank == 0
        self.seconds: deque[float] = deque(maxlen=_RECENT)
        self.waited: deque[float] = deque(maxlen=_RECENT)
        self.stalls = Stalls()
        self.books = Books(life.page)
        self.grams_per_kwh = grams_per_kwh
        world = life.world  # one rank of each node reads the counters of all its devices
        is_first = world.local_rank == 0
        meters = meters_of_node(device, processes=world.local_world_size) if is_first else []
        self.sampler = Sampler(self.books, device, meters)

    @classmethod
    def of(cls, config: RunConfig, plan: Plan, device: torch.device, life: Life) -> "Reporter":
        """`model_flops` becomes the part of the devices' peak that one token a second takes."""
        telemetry = config.telemetry
        enabled = telemetry.progress and life.world.rank == 0
        speaker = speaker_of(
            sys.stdout,
            seconds=telemetry.progress_seconds,
            enabled=enabled,
            guardian=life if life.line is not None else None,
        )
        peak = peak_flops(device, config.precision.name)
        flops = plan.flops_per_token
        part = flops / (peak * life.world.world_size) if peak and flops else None
        return cls(
            run_folder(config),
            speaker,
            life,
            steps=config.train.steps,
            model_flops=part,
            device=device,
            grams_per_kwh=telemetry.grid_grams_per_kwh,
        )

    @property
    def is_finished(self) -> bool:
        """Whether the run's folder holds a summary of all its steps; False but on rank 0."""
        path = self.folder / SUMMARY
        return (
            self.is_speaker
            and path.exists()
            and json.loads(path.read_text())["steps"] >= self.steps
        )

    def say(self, words: str) -> None:
        """Something a person should see."""
        self.speaker.say(words)

    def event(self, kind: str, step: int, **fields: object) -> None:
        """A line of events.jsonl, from rank 0."""
        if self.is_speaker:
            self.events.write(kind, step=step, generation=self.life.generation, **fields)

    def begin(self, step: int, restored: Restored | None) -> None:
        """A generation begins at `step`; damage that was passed over is named."""
        meters = [meter.name for meter in self.sampler.meters]
        size = self.life.world.world_size
        self.event("start", step, world_size=size, energy_meters=meters)
        if restored is None:
            return
        for damage in restored.damaged:
            self.say(f"damaged, passed over: {damage.path}/{damage.file}: {damage.reason}")
        damaged = [asdict(damage) for damage in restored.damaged]
        self.event("restore", step, path=restored.path, damaged=damaged)
        self.say(f"resumed at step {step} from {restored.path}")

    def step(self, report: StepReport) -> None:
        """One optimizer step is over."""
        if not self.seconds:
            self.life.tell("stepped", step=report.step)
        self.seconds.append(report.step_seconds)
        self.waited.append(report.data_seconds)
        if not self.is_speaker:
            self._tell_energy(report.step)
            return
        if words := self.stalls.add(report.data_causes, report.step_seconds):
            self.say(words)
        rate = report.tokens_per_second
        mfu = None if self.model_flops is None else rate * self.model_flops
        line = asdict(report)
        router = line.pop("router")
        for name in ("redone", "grad_norms", "data"):
            if line[name] is None:
                del line[name]
        sampled = self.sampler.take(is_last=report.step == self.steps)
        head = {"time": round(time.time(), 4), "generation": self.life.generation}
        append_line(
            self.folder / "metrics.jsonl", {**line, **router, "mfu": mfu, **head, **sampled}
        )
        self._show(report, mfu)

    def _show(self, report: StepReport, mfu: float | None) -> None:
        recent = statistics.median(self.seconds)
        shown = Shown(
            step=report.step,
            steps=self.steps,
            loss=report.loss,
            grad_norm=report.grad_norm,
            lr=report.lr,
            tokens_per_second=report.tokens_per_second,
            mfu=mfu,
            stall=sum(self.waited) / max(sum(self.seconds), 1e-9),
            goodput=goodput_of(self.books.steps, recent, self.books.wall_seconds),
            left_seconds=recent * (self.steps - report.step),
        )
        self.speaker.show(shown, is_last=report.step == self.steps)

    def _tell_energy(self, step: int) -> None:
        """Of another node than rank 0's, which cannot read its counters."""
        if self.sampler.meters and (found := self.sampler.take(every_seconds=_ENERGY_SECONDS)):
            generation, joules = self.life.generation, found["energy_joules"]
            self.events.write("energy", step=step, generation=generation, joules=joules)

    def finish(
        self,
        progress: Progress,
        *,
        eval_loss: float | None,
        state_digest: str,
        parameters: int,
        data: dict[str, float],
        extra: dict[str, Any],
    ) -> None:
        """Writes summary.json, the finish event and the last words."""
        if not self.is_speaker:
            return
        lines = read_lines(self.folder / "metrics.jsonl")
        steps, events = last_of_each_step(lines), read_lines(self.folder / "events.jsonl")
        wall = self.books.wall_seconds
        final_loss = steps[progress.step]["loss"] if progress.step in steps else None
        summary = {
            "steps": progress.step,
            "final_loss": final_loss,
            "eval_loss": eval_loss,
            "state_digest": state_digest,
            "tokens": progress.tokens,
            "tokens_per_second": statistics.median(
                [float(str(line["tokens_per_second"])) for line in steps.values()] or [0.0]
            ),
            "goodput": goodput(lines, wall_seconds=wall),
            "recoveries": self._recoveries(events),
            "skips": progress.skips,
            "rollbacks": sum(event["kind"] == "rollback" for event in events),
            "parameters": parameters,
            "world_size": self.life.world.world_size,
            "wall_seconds": wall,
            "seconds": self.books.seconds,
            "energy": energy_of(lines, events, grams_per_kwh=self.grams_per_kwh),
            **({"data": data} if data else {}),
            **extra,
        }
        write_atomically(self.folder / SUMMARY, json.dumps(summary, indent=2) + "\n")
        self.event("finish", progress.step, state_digest=state_digest)
        self._last_words(summary)

    def _recoveries(self, events: list[dict[str, object]]) -> int:
        """This generation's own counts too where its guardian has not noted it yet, as in a run
        that has one step left."""
        found = [event for event in events if event["kind"] == "recovery"]
        own = (event["generation"] == self.life.generation for event in found)
        is_noted = any(own) or self.life.line is None
        return len(found) + (self.life.generation > 0 and not is_noted)

    def _last_words(self, summary: dict[str, Any]) -> None:
        """The summary as a few lines for a person."""
        for key, value in summary.items():
            if value is not None and key not in ("text", "data", "seconds", "energy"):
                shown = f"{value:,.4f}" if isinstance(value, float) else value
                self.say(f"  {key:<22} {shown}")
        if "text" in summary:
            self.say(f"  text: {summary['text']}")
        self.say(f"finished: {self.folder}")
