"""How a run stands, and why it ended: by what its job wrote and by what the kernel says, never by
a guess. Reads the ends of its files only, so that a folder of many runs is listed at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from ...recovery.ledger import goodput_of
from ...recovery.verdict import EXIT_FINISHED, EXIT_PREEMPTED
from ..alive import Presence, presence
from ..progress import duration
from .run import EVENTS, METRICS, Line, last_lines, read_ledger, read_settings, read_summary

_SILENT_SECONDS = 60.0
_MEDIAN_LINES = 50


class State(StrEnum):
    """Where a run stands."""

    running = "running"
    finished = "finished"
    preempted = "preempted"
    """Asked to end, and saved: the same command goes on."""
    failed = "failed"
    """Ended for a reason that it said."""
    lost = "lost"
    """Its processes are gone and said nothing: killed, or their machine was."""
    silent = "silent"
    """It ran on another machine and has written nothing for a minute."""
    unknown = "unknown"
    """A run that no job of this release has begun."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """One run at a glance."""

    folder: Path
    state: State
    why: str
    """Why it ended, in words; what it is at while it runs."""
    step: int
    steps: int | None
    loss: float | None
    goodput: float | None
    checkpoint: int | None
    """Step of the last one saved; None where there is none among the last events."""

    @property
    def name(self) -> str:
        return self.folder.resolve().name


def status_of(folder: Path) -> Status:
    """How the run in a folder stands. Answers at once."""
    events, metrics = last_lines(folder / EVENTS), last_lines(folder / METRICS)
    state, why = judge(events, presence(folder))
    last: Line = metrics[-1] if metrics else {}
    saved = [event for event in events if event.get("kind") == "checkpoint"]
    return Status(
        folder=folder,
        state=state,
        why=why,
        step=int(last.get("step", 0)),
        steps=read_settings(folder).get("train", {}).get("steps"),
        loss=last.get("loss"),
        goodput=_goodput(folder, metrics),
        checkpoint=int(saved[-1]["step"]) if saved else None,
    )


def judge(events: Sequence[Line], job: Presence | None) -> tuple[State, str]:
    """The state and its reason. Pure.

    Args:
        events: the last of events.jsonl.
        job: of the run's last job; None where none said who it was.
    """
    if job is None:
        is_over = bool(events) and events[-1].get("kind") == "finish"
        return (State.finished, "all steps done") if is_over else (State.unknown, "")
    own = [event for event in events if float(event.get("time", 0.0)) >= job.begun]
    ends = [event for event in own if event.get("kind") == "end"]
    if ends:
        return _ended(ends[-1], own)
    if job.is_alive:
        return State.running, _at_work(own)
    last = f"; last event: {_named(own[-1])}" if own else ""
    ago = duration(job.silent_seconds)
    if job.is_alive is False:
        return State.lost, f"its processes on {job.host} are gone without a word, {ago} ago{last}"
    if job.silent_seconds < _SILENT_SECONDS:
        return State.running, f"on {job.host}, wrote {ago} ago"
    return State.silent, f"{job.host} has written nothing for {ago}{last}"


def _ended(end: Line, own: Sequence[Line]) -> tuple[State, str]:
    code = end.get("code")
    if code == EXIT_FINISHED:
        return State.finished, "all steps done"
    if code == EXIT_PREEMPTED:
        asked = _last(own, "stop")
        by = f" by {asked['reason']}" if asked else ""
        return State.preempted, f"asked to end{by}, saved at step {end.get('step')}"
    failure = _last(own, "failure", "hang")
    said = str(end.get("reason") or (failure or {}).get("reason") or "no reason given")
    return State.failed, said


def _at_work(own: Sequence[Line]) -> str:
    """What a living run has gone through in this job."""
    recoveries = sum(event.get("kind") == "recovery" for event in own)
    trouble = [event for event in own if event.get("kind") in ("failure", "hang", "outage")]
    over = [event for event in own if event.get("kind") in ("recovery", "outage_over")]
    if trouble and (not over or over[-1]["time"] < trouble[-1]["time"]):
        return _named(trouble[-1])
    return f"{recoveries} recoveries" if recoveries > 1 else "1 recovery" * recoveries


def _named(event: Line) -> str:
    words = f"{event.get('kind')} at step {event.get('step')}"
    return f"{words}: {event['reason']}" if event.get("reason") else words


def _last(events: Sequence[Line], *kinds: str) -> Line | None:
    return next((one for one in reversed(events) if one.get("kind") in kinds), None)


def _goodput(folder: Path, metrics: Sequence[Line]) -> float | None:
    """As the summary has it; before there is one by the last ledger: what lies in the folder, or in
    the last line that has one."""
    if (said := read_summary(folder).get("goodput")) is not None:
        return float(said)
    recent = sorted(float(line["step_seconds"]) for line in metrics[-_MEDIAN_LINES:])
    if not recent:
        return None
    sampled = [line["ledger"] for line in metrics if "ledger" in line]
    kept: dict[str, Any] = dict(read_ledger(folder))
    seconds = dict(kept.get("seconds", {}))
    if sampled and sampled[-1]["until"] > float(kept.get("until", 0.0)):
        seconds = {key: value for key, value in sampled[-1].items() if key != "until"}
    steps = max(int(line["step"]) for line in metrics)
    return goodput_of(steps, recent[len(recent) // 2], sum(seconds.values()))
