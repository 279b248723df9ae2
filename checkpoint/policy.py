"""When to save, from plain values: no clock, no files, no ranks.

What stays of what was saved is in retention.py.
"""

import math
from collections.abc import Mapping
from typing import final

from .config import AUTO, CheckpointConfig
from .retention import BestMode

# One failure in so many hours of one accelerator: Llama 3's 419 interruptions in 54 days on 16,384
# of them (arXiv 2407.21783, table 5).
_HOURS_OF_ONE_PROCESS = 54 * 24 * 16384 / 419


def is_save_due(
    step: int,
    *,
    seconds_since_save: float,
    config: CheckpointConfig,
    auto_seconds: float = math.inf,
) -> bool:
    """Whether the step just finished is to be saved.

    With `every_seconds` the answer hangs on a clock: ask on one rank and tell the others.

    Args:
        auto_seconds: what `checkpoint.every_seconds=auto` means now.
    """
    every = auto_seconds if config.every_seconds == AUTO else float(config.every_seconds)
    by_steps = config.every_steps > 0 and step > 0 and step % config.every_steps == 0
    by_seconds = every > 0 and seconds_since_save >= every
    return by_steps or by_seconds or step in config.at_steps


def auto_interval_seconds(
    save_cost_seconds: float,
    mean_time_between_failures_seconds: float,
    *,
    least_seconds: float = 30.0,
    most_seconds: float = 3600.0,
) -> float:
    """Seconds of work between the end of one save and the begin of the next that lose the least.

    Young's sqrt(2 C M) (CACM 17(9), 1974) with the higher-order terms of Daly (Future Generation
    Computer Systems 22(3), 2006, equation 37), then held within the bounds.

    Args:
        save_cost_seconds: C, what one save takes of the training's time.
        mean_time_between_failures_seconds: M, of the whole job.

    Raises:
        ValueError: for a cost below 0, a mean time that is not above 0, or bounds in disorder.
    """
    cost, mean = save_cost_seconds, mean_time_between_failures_seconds
    if not (cost >= 0 and mean > 0 and 0 <= least_seconds <= most_seconds):
        raise ValueError(
            f"The interval between saves: found a cost of {cost} s, a mean time between failures "
            f"of {mean} s and bounds of {least_seconds} to {most_seconds} s, needed 0 or more, "
            "more than 0, and bounds in order; correct the measurement"
        )
    interval = mean
    if cost < 2 * mean:
        share = cost / (2 * mean)
        interval = math.sqrt(2 * cost * mean) * (1 + math.sqrt(share) / 3 + share / 9) - cost
    return min(max(interval, least_seconds), most_seconds)


def expected_time_between_failures_seconds(
    *, failures: int, run_seconds: float, processes: int
) -> float:
    """Mean seconds between failures of a job of so many processes, from what it saw so far.

    Before it saw many, it is taken to be as reliable as large runs are: one failure at the rate of
    theirs counts as seen.
    """
    usual = _HOURS_OF_ONE_PROCESS * 3600 / processes
    return (run_seconds + usual) / (failures + 1)


def is_better(value: float, best: float | None, mode: BestMode) -> bool:
    """Whether a metric beats the best so far; a value that is not finite beats nothing."""
    if not math.isfinite(value):
        return False
    if best is None:
        return True
    return value < best if mode is BestMode.min else value > best


@final
class Cadence:
    """When one run saves next. Seconds are of any clock that only goes forward.

    Args:
        processes: of the whole job.
        now: when the run begins.
    """

    def __init__(self, config: CheckpointConfig, *, processes: int, now: float) -> None:
        self._config = config
        self._processes = processes
        self._begun = self._saved = now
        self._cost_seconds: float | None = None
        self.best: float | None = None
        """The best value of `checkpoint.best_metric` so far: part of a run's state."""

    def is_due(self, step: int, *, now: float, failures: int) -> bool:
        """Whether the step just finished is to be saved; ask on one rank and tell the others.

        Args:
            failures: that the job has seen since `now` was the begin.
        """
        return is_save_due(
            step,
            seconds_since_save=now - self._saved,
            config=self._config,
            auto_seconds=self._auto_seconds(now, failures),
        )

    def saved(self, *, now: float, cost_seconds: float) -> None:
        """Notes a save that ended, and what it took of the training's time."""
        self._saved, self._cost_seconds = now, cost_seconds

    def is_best(self, metrics: Mapping[str, float]) -> bool:
        """Whether these beat all that it was asked of before; equal on ranks with equal metrics."""
        value = metrics.get(self._config.best_metric or "")
        if value is None or not is_better(value, self.best, self._config.best_mode):
            return False
        self.best = value
        return True

    def _auto_seconds(self, now: float, failures: int) -> float:
        # Before the first save its cost is not known: it is made early, and measured.
        mean = expected_time_between_failures_seconds(
            failures=failures, run_seconds=now - self._begun, processes=self._processes
        )
        return auto_interval_seconds(self._cost_seconds or 0.0, mean)
