"""When to save, as functions of steps, seconds and measurements; the clock is the test's."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepstep.checkpoint import Cadence, CheckpointConfig
from keepstep.checkpoint.policy import (
    auto_interval_seconds,
    expected_time_between_failures_seconds,
    is_better,
    is_save_due,
)
from keepstep.checkpoint.retention import BestMode

SECONDS = st.floats(0.001, 1e6)


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
        (7, 0, {"every_steps": 0, "at_steps": [3, 7]}, True),
        (8, 0, {"every_steps": 0, "at_steps": [3, 7]}, False),
        (7, 99, {"every_steps": 0, "every_seconds": "auto"}, False),
        (7, 100, {"every_steps": 0, "every_seconds": "auto"}, True),
    ],
)
def test_a_save_is_due_by_steps_or_by_seconds(step, seconds, cadence, due):
    config = CheckpointConfig(**cadence)
    assert is_save_due(step, seconds_since_save=seconds, config=config, auto_seconds=100) is due


def wasted(interval: float, cost: float, mean: float) -> float:
    """Expected wall time for one unit of work, restarts being free, failures exponential (Daly
    2006, equation 20)."""
    return mean * math.expm1((interval + cost) / mean) / interval


@given(st.floats(0.1, 100), st.floats(100, 1e6))
def test_the_auto_interval_wastes_no_more_than_others_nearby(cost, mean):
    best = auto_interval_seconds(cost, mean, least_seconds=0, most_seconds=math.inf)
    lost = wasted(best, cost, mean)
    assert all(lost <= wasted(best * factor, cost, mean) * 1.001 for factor in (0.5, 0.8, 1.25, 2))


def test_the_auto_interval_is_youngs_where_saves_are_cheap():
    found = auto_interval_seconds(1.0, 1e6)
    assert found == pytest.approx(math.sqrt(2 * 1.0 * 1e6), rel=1e-3)


def test_a_save_dearer_than_two_failures_apart_is_made_once_a_failure():
    assert auto_interval_seconds(50, 20, least_seconds=0) == 20


@given(SECONDS, SECONDS)
def test_the_auto_interval_stays_in_its_bounds(cost, mean):
    assert 30 <= auto_interval_seconds(cost, mean) <= 3600


@pytest.mark.parametrize(("cost", "mean"), [(-1.0, 10.0), (1.0, 0.0), (math.nan, 1.0)])
def test_measurements_that_cannot_be_are_refused(cost, mean):
    with pytest.raises(ValueError, match=f"found a cost of {cost} s, a mean .* of {mean} s"):
        auto_interval_seconds(cost, mean)


def test_expected_failures_begin_with_those_of_large_runs_and_end_with_what_was_seen():
    assert expected_time_between_failures_seconds(
        failures=0, run_seconds=0, processes=16384
    ) == pytest.approx(54 * 86400 / 419)
    seen = expected_time_between_failures_seconds(failures=999, run_seconds=1e6, processes=16384)
    assert seen == pytest.approx(1000, rel=0.02)


def test_a_metric_that_is_not_finite_beats_nothing():
    assert is_better(1.0, None, BestMode.min)
    assert is_better(1.0, 2.0, BestMode.min)
    assert not is_better(1.0, 2.0, BestMode.max)
    assert not is_better(2.0, 2.0, BestMode.max)
    assert not is_better(math.nan, None, BestMode.min)


def test_with_auto_the_first_save_comes_early_and_its_cost_sets_the_next():
    config = CheckpointConfig(every_steps=0, every_seconds="auto")
    cadence = Cadence(config, processes=16384, now=100.0)
    assert not cadence.is_due(1, now=129.0, failures=0)
    assert cadence.is_due(2, now=130.0, failures=0)
    cadence.saved(now=131.0, cost_seconds=1.0)
    waits = auto_interval_seconds(1.0, 54 * 86400 / 419)
    assert not cadence.is_due(3, now=130.0 + waits, failures=0)
    assert cadence.is_due(4, now=133.0 + waits, failures=0)
    assert cadence.is_due(4, now=131.0 + waits * 0.6, failures=3)


def test_the_best_is_told_by_the_configured_metric_alone():
    cadence = Cadence(CheckpointConfig(best_metric="eval_loss"), processes=1, now=0.0)
    found = [cadence.is_best({"eval_loss": value, "loss": 0.0}) for value in (3.0, 3.5, 2.0)]
    assert (found, cadence.best) == ([True, False, True], 2.0)
    assert not cadence.is_best({"loss": 0.0})
