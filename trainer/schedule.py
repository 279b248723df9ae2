"""Learning-rate schedules: pure functions of the step, so that there is no state to save."""

import math

from .config import (
    ConstantConfig,
    CosineConfig,
    InverseSqrtConfig,
    LinearConfig,
    ScheduleConfig,
    WSDConfig,
)


def scale(config: ScheduleConfig, *, step: int, steps: int) -> float:
    """The learning rate of step `step` (counted from 0) of `steps`, as a part of the peak, 0 to 1.

    Raises:
        ValueError: for a schedule that has no function here.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    match config:
        case ConstantConfig():
            return 1.0
        case CosineConfig():
            return _cosine(config, step, steps)
        case InverseSqrtConfig():
            return _inverse_sqrt(config, step)
        case LinearConfig():
            return _linear(config, step, steps)
        case WSDConfig():
            return _wsd(config, step, steps)
    raise ValueError(
        f"schedule: found {type(config).__name__}, needed constant, cosine, inverse_sqrt, linear "
        "or wsd; choose one with schedule=NAME"
    )


def _done(config: ScheduleConfig, step: int, steps: int) -> float:
    """How much of the way from the end of the warm-up to the last step is behind, 0 to 1."""
    return min(1.0, (step - config.warmup_steps) / max(1, steps - 1 - config.warmup_steps))


def _cosine(config: CosineConfig, step: int, steps: int) -> float:
    low, done = config.min_ratio, _done(config, step, steps)
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * done))


def _linear(config: LinearConfig, step: int, steps: int) -> float:
    return 1 - (1 - config.min_ratio) * _done(config, step, steps)


def _inverse_sqrt(config: InverseSqrtConfig, step: int) -> float:
    # Steps are counted from 1 here: the warm-up's last one, number warmup_steps, is at the peak,
    # and without a warm-up the first one is.
    return max(config.min_ratio, math.sqrt(max(1, config.warmup_steps) / (step + 1)))


def _wsd(config: WSDConfig, step: int, steps: int) -> float:
    decay = round(config.decay_fraction * steps)
    left = steps - 1 - step
    if left >= decay:
        return 1.0
    return config.min_ratio + (1 - config.min_ratio) * left / max(1, decay)
