"""The budget of recoveries, their back-off, and goodput from metrics made by hand."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keepstep.trainer.recovery.ledger import (
    backoff_seconds,
    goodput,
    last_of_each_step,
    read_lines,
    recoveries_exceeded,
)


def step(number: int, seconds: float, loss: float = 1.0) -> dict[str, object]:
    return {"step": number, "step_seconds": seconds, "loss": loss}


def test_the_limit_counts_recoveries_of_the_last_hour_only() -> None:
    times = [0.0, 10.0, 3000.0]
    assert recoveries_exceeded(times, now=3001.0, limit=3)
    assert not recoveries_exceeded(times, now=3001.0, limit=4)
    assert not recoveries_exceeded(times, now=3605.0, limit=3)


def test_a_limit_of_none_allows_none() -> None:
    assert recoveries_exceeded([], now=1.0, limit=0)
    assert not recoveries_exceeded([], now=1.0, limit=1)


def test_three_recoveries_in_a_minute_are_free_and_the_next_wait_longer() -> None:
    waits = [backoff_seconds([100.0] * count, now=101.0) for count in range(8)]
    assert waits == [0, 0, 0, 0, 0.5, 1.0, 2.0, 4.0]
    assert backoff_seconds([0.0] * 6, now=61.0) == 0.0


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 500))
def test_back_off_never_shrinks_with_failures_and_ends_at_30_seconds(count: int) -> None:
    wait = backoff_seconds([5.0] * count, now=6.0)
    assert 0 <= wait <= backoff_seconds([5.0] * (count + 1), now=6.0) <= 30.0


def test_goodput_is_clean_step_time_over_wall_time() -> None:
    assert goodput([step(1, 1.0), step(2, 1.0)], wall_seconds=4.0) == pytest.approx(0.5)


def test_a_step_that_was_redone_counts_once() -> None:
    lines = [step(1, 1.0), step(2, 1.0), step(3, 9.0), step(2, 1.0), step(3, 1.0), step(4, 1.0)]
    assert goodput(lines, wall_seconds=8.0) == pytest.approx(0.5)


def test_one_slow_step_is_not_good_time() -> None:
    lines = [step(number, 1.0) for number in range(1, 10)] + [step(10, 30.0)]
    assert goodput(lines, wall_seconds=40.0) == pytest.approx(10 / 40)


def test_goodput_is_unknown_before_a_step_and_never_above_one() -> None:
    assert goodput([], wall_seconds=3.0) is None
    assert goodput([step(1, 1.0)], wall_seconds=0.0) is None
    assert goodput([step(1, 5.0)], wall_seconds=1.0) == 1.0


def test_the_last_line_of_a_step_counts() -> None:
    found = last_of_each_step([step(1, 1.0, 5.0), step(2, 1.0, 4.0), step(1, 1.0, 3.0)])
    assert {number: line["loss"] for number, line in found.items()} == {1: 3.0, 2: 4.0}


def test_a_torn_line_is_left_out_and_a_missing_file_has_none(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_lines(path) == []
    path.write_text('{"step": 1}\n{"step": 2, "lo\n{"step": 3}\n{"st')
    assert read_lines(path) == [{"step": 1}, {"step": 3}]
