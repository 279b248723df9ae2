"""Learning-rate schedules: pure functions of the step, so that there is no state to save."""

import math

from .config import CosineConfig, ScheduleConfig, WSDConfig


def scale(config: ScheduleConfig, *, step: int, steps: int) -> float:
    """The learning rate of step `step` (counted from 0) of `steps`, as a part of the peak, 0 to 1.

    Raises:
        ValueError: for a schedule that has no function here.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if isinstance(config, CosineConfig):
        return _cosine(config, step, steps)
    if isinstance(config, WSDConfig):
        return _wsd(config, step, steps)
    raise ValueError(f"schedule: found {type(config).__name__}, needed cosine or wsd")


def _cosine(config: CosineConfig, step: int, steps: int) -> float:
    done = (step - config.warmup_steps) / max(1, steps - 1 - config.warmup_steps)
    low = config.min_ratio
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _wsd(config: WSDConfig, step: int, steps: int) -> float:
    decay = round(config.decay_fraction * steps)
    left = steps - 1 - step
    if left >= decay:
        return 1.0
    return config.min_ratio + (1 - config.min_ratio) * left / max(1, decay)
