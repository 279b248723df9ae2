"""Curves are thinned without losing a spike, and gaps are left out."""

import numpy as np

from keepstep.trainer.telemetry.report.series import (
    column,
    percentiles,
    smoothed,
    summed,
    thinned,
    unit_of_time,
)


def test_lines_without_a_value_are_left_out() -> None:
    lines = [{"step": 1, "a": {"b": 2}}, {"step": 2}, {"step": 3, "a": None}, {"step": 4, "a": {}}]
    x, y = column(lines, "a", "b")
    assert (x.tolist(), y.tolist()) == ([1.0], [2.0])


def test_a_thinned_curve_keeps_its_spike_and_its_ends_in_order() -> None:
    x = np.arange(100_000, dtype=float)
    y = np.sin(x / 1000)
    y[54_321] = 50.0
    few_x, few_y = thinned(x, y, most=200)
    assert len(few_x) <= 200
    assert (np.diff(few_x) > 0).all()
    assert few_y.max() == 50.0
    assert thinned(x[:50], y[:50], most=200)[0] is not None
    assert len(thinned(x[:50], y[:50], most=200)[0]) == 50


def test_the_running_median_does_not_see_one_spike() -> None:
    y = np.ones(500)
    y[250] = 100.0
    assert (smoothed(y) == 1.0).all()
    assert len(smoothed(y)) == 500
    short = np.array([1.0, 5.0])
    assert smoothed(short) is short


def test_percentiles_are_of_stretches() -> None:
    x = np.arange(200, dtype=float)
    y = np.where(x < 100, 1.0, 3.0)
    middles, found = percentiles(x, y, (50, 99))
    assert len(middles) == 10
    assert found[50].tolist() == [1.0] * 5 + [3.0] * 5


def test_sums_of_stretches_hold_everything() -> None:
    x = np.arange(1000, dtype=float)
    middles, (total,) = summed(x, np.ones(1000))
    assert (len(middles), total.sum()) == (120, 1000.0)


def test_time_is_drawn_in_the_unit_of_its_length() -> None:
    names = [unit_of_time(seconds)[1] for seconds in (0.0, 100.0, 1000.0, 20_000.0, 1e6)]
    assert names == ["seconds", "seconds", "minutes", "hours", "days"]
