"""What failures cost: how many recoveries are allowed, and the share of wall time that was good.

Pure functions of times; the clock is the caller's.
"""

import contextlib
import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

_HOUR = 3600.0


def recoveries_exceeded(times: Sequence[float], *, now: float, limit: int) -> bool:
    """Whether one more recovery at `now` would pass `limit` within an hour (times in seconds)."""
    return sum(now - moment < _HOUR for moment in times) >= limit


def backoff_seconds(times: Sequence[float], *, now: float) -> float:
    """How long to wait before the next generation: nothing for the first three in a minute that
    ended without a finished step (at `times`), then 0.5 s, doubling up to 30 s."""
    recent = sum(now - moment < 60.0 for moment in times)
    return 0.0 if recent <= 3 else float(min(30.0, 0.5 * 2 ** (recent - 4)))


def read_lines(path: Path) -> list[dict[str, object]]:
    """The whole lines of a JSONL file; one torn by a loss of power is left out."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return found


def last_of_each_step(metrics: Iterable[dict[str, object]]) -> dict[int, dict[str, object]]:
    """Metrics by step; a step redone after a failure counts by its last line."""
    return {int(str(line["step"])): line for line in metrics}


def goodput(metrics: Iterable[dict[str, object]], *, wall_seconds: float) -> float | None:
    """Unique committed steps x median clean step time / wall time, 0 to 1; None before a step."""
    steps = last_of_each_step(metrics)
    seconds = [float(str(line["step_seconds"])) for line in steps.values()]
    return goodput_of(len(seconds), statistics.median(seconds or [0.0]), wall_seconds)


def goodput_of(num_steps: int, clean_seconds: float, wall_seconds: float) -> float | None:
    """The same, of steps that were counted already."""
    if not num_steps or wall_seconds <= 0:
        return None
    return min(1.0, num_steps * clean_seconds / wall_seconds)
