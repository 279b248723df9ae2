"""Every second of a run is drawn once, where it was spent."""

from typing import Any

import pytest

from keepstep.trainer.telemetry.reading.timeline import begin_of, binned, spans


def line(until: float, **seconds: float) -> dict[str, Any]:
    return {"step": 1, "ledger": {"until": until, **seconds}}


LEDGER = {"since": 100.0, "until": 110.0, "seconds": {"init": 2.0, "step": 7.0, "save": 1.0}}
LINES = [line(102.0, init=2.0), {"step": 2}, line(105.0, init=2.0, step=3.0)]


def test_a_span_is_what_was_booked_between_two_states() -> None:
    found = spans(LINES, LEDGER)
    assert [(span.begin, span.end) for span in found] == [(0.0, 2.0), (2.0, 5.0), (5.0, 10.0)]
    spent = [{name: value for name, value in span.seconds.items() if value} for span in found]
    assert spent == [{"init": 2.0}, {"step": 3.0}, {"step": 4.0, "save": 1.0}]


def test_bins_hold_all_the_time_there_is() -> None:
    width, bins = binned(spans(LINES, LEDGER), 4)
    assert width == 2.5
    assert {name: sum(row) for name, row in bins.items()} == pytest.approx(LEDGER["seconds"])
    for place in range(4):
        assert sum(row[place] for row in bins.values()) == pytest.approx(width)
    assert bins["init"] == [2.0, 0.0, 0.0, 0.0]


def test_what_a_killed_job_had_not_kept_is_drawn_as_the_wait_that_it_was_booked_as() -> None:
    lost = line(109.0, init=2.0, step=7.0)
    again = line(115.0, init=4.0, step=3.0, wait=8.0)
    found = spans([*LINES, lost, again], {})
    assert found[-1].end == 15.0
    assert found[-1].seconds["wait"] == 8.0
    assert found[-1].seconds["step"] == 0.0


def test_the_begin_is_known_without_a_ledger_too() -> None:
    assert begin_of([], LEDGER) == 100.0
    assert begin_of([{"step": 1}, *LINES], {}) == 100.0
    assert begin_of([], {}) is None
    assert binned(spans([], {}), 3) == (0.0, {})
