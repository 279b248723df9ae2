"""When to save and what to keep, as pure functions: no clock, no files."""

from collections.abc import Sequence
from typing import TypeVar

from .config import CheckpointConfig

_T = TypeVar("_T")


def is_save_due(step: int, *, seconds_since_save: float, config: CheckpointConfig) -> bool:
    """Whether the step just finished is to be saved.

    With `every_seconds` the answer hangs on a clock: ask on one rank and tell the others.
    """
    by_steps = config.every_steps > 0 and step > 0 and step % config.every_steps == 0
    by_seconds = config.every_seconds > 0 and seconds_since_save >= config.every_seconds
    return by_steps or by_seconds


def steps_to_remove(steps: Sequence[_T], keep: int) -> list[_T]:
    """Those of `steps`, given newest first, that go when `keep` stay; never the newest."""
    return list(steps[max(keep, 1) :])
