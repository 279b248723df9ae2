"""What the loop reports: metrics and events into the run's folder, the progress line, the summary.
Rank 0 writes; on other ranks it is silent, so that the loop need not ask."""

import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ...checkpoint import Restored
from ...parallel import Plan
from ..config import RunConfig
from ..identity import run_folder
from ..recovery.ledger import goodput, last_of_each_step, read_lines
from ..recovery.life import Life
from ..state import Progress
from .events import Events
from .files import append_line, write_atomically
from .flops import peak_flops
from .progress import Console, duration
from .stall import Stalls

SUMMARY = "summary.json"


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
        self, folder: Path, console: Console, life: Life, *, steps: int, model_flops: float | None
    ) -> None:
        self.folder = folder
        self.console = console
        self.life = life
        self.steps = steps
        self.model_flops = model_flops
        self.events = Events(folder, rank=life.world.rank)
        self.is_speaker = life.world.rank == 0
        self.seconds: list[float] = []
        self.stalls = Stalls()

    @classmethod
    def of(cls, config: RunConfig, plan: Plan, device: torch.device, life: Life) -> "Reporter":
        """`model_flops` becomes the part of the devices' peak that one token a second takes."""
        telemetry = config.telemetry
        enabled = telemetry.progress and life.world.rank == 0
        console = Console(sys.stdout, seconds=telemetry.progress_seconds, enabled=enabled)
        peak = peak_flops(device, config.precision.name)
        flops = plan.flops_per_token
        part = flops / (peak * life.world.world_size) if peak and flops else None
        return cls(run_folder(config), console, life, steps=config.train.steps, model_flops=part)

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
        self.console.say(words)

    def event(self, kind: str, step: int, **fields: object) -> None:
        """A line of events.jsonl, from rank 0."""
        if self.is_speaker:
            self.events.write(kind, step=step, generation=self.life.generation, **fields)

    def begin(self, step: int, restored: Restored | None) -> None:
        """A generation begins at `step`; damage that was passed over is named."""
        self.event("start", step, world_size=self.life.world.world_size)
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
        if not self.is_speaker:
            return
        if words := self.stalls.add(report.data_causes, report.step_seconds):
            self.say(words)
        rate = report.tokens_per_second
        mfu = None if self.model_flops is None else rate * self.model_flops
        line = asdict(report)
        router = line.pop("router")
        for name in ("grad_norms", "data"):
            if line[name] is None:
                del line[name]
        append_line(self.folder / "metrics.jsonl", {**line, **router, "mfu": mfu})
        recent = statistics.median(self.seconds[-20:])
        left = duration(recent * (self.steps - report.step))
        self.console.show(
            f"step {report.step}/{self.steps}  loss {report.loss:.4f}  "
            f"norm {report.grad_norm:.2f}  lr {report.lr:.2e}  {rate:,.0f} tokens/s  "
            f"{f'mfu {mfu:.1%}  ' if mfu is not None else ''}left {left}",
            is_last=report.step == self.steps,
        )

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
        wall = time.time() - min(float(str(event["time"])) for event in events)
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
            "recoveries": sum(event["kind"] == "recovery" for event in events),
            "skips": progress.skips,
            "parameters": parameters,
            "world_size": self.life.world.world_size,
            "wall_seconds": wall,
            **({"data": data} if data else {}),
            **extra,
        }
        write_atomically(self.folder / SUMMARY, json.dumps(summary, indent=2) + "\n")
        self.event("finish", progress.step, state_digest=state_digest)
        self._last_words(summary)

    def _last_words(self, summary: dict[str, Any]) -> None:
        """The summary as a few lines for a person."""
        for key, value in summary.items():
            if value is not None and key not in ("text", "data"):
                shown = f"{value:,.4f}" if isinstance(value, float) else value
                self.say(f"  {key:<22} {shown}")
        if "text" in summary:
            self.say(f"  text: {summary['text']}")
        self.say(f"finished: {self.folder}")
