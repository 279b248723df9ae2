"""When to save and what to keep, as pure functions of steps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepstep.checkpoint import CheckpointConfig, is_save_due
from keepstep.checkpoint.retention import steps_to_remove

STEPS = st.lists(st.integers(0, 10**9), unique=True).map(lambda steps: sorted(steps)[::-1])


@given(STEPS, st.integers(1, 8))
def test_the_newest_stay_and_all_others_go(steps, keep):
    gone = steps_to_remove(steps, keep)
    assert steps[:keep] + gone == steps
    assert len(gone) == max(0, len(steps) - keep)


@given(STEPS.filter(bool), st.integers(-3, 8))
def test_the_newest_never_goes(steps, keep):
    assert steps[0] not in steps_to_remove(steps, keep)


@pytest.mark.parametrize(
    ("step", "seconds", "cadence", "due"),
    [
        (50, 0, {"every_steps": 50}, True),
        (51, 0, {"every_steps": 50}, False),
        (0, 0, {"every_steps": 50}, False),
        (50, 1e9, {"every_steps": 0}, False),
        (7, 60, {"every_steps": 0, "every_seconds": 60}, True),
        (7, 59, {"every_steps": 0, "every_seconds": 60}, False),
        (7, 60, {"every_steps": 50, "every_seconds": 60}, True),
        (50, 1, {"every_steps": 50, "every_seconds": 60}, True),
    ],
)
def test_a_save_is_due_by_steps_or_by_seconds(step, seconds, cadence, due):
    config = CheckpointConfig(**cadence)
    assert is_save_due(step, seconds_since_save=seconds, config=config) is due
