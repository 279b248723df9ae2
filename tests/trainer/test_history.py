"""How far a gradient norm stands out of those before it."""

import math

import pytest

from keepstep.trainer.history import NormHistory


def filled(*norms: float) -> NormHistory:
    history = NormHistory()
    for norm in norms:
        history.add(norm)
    return history


def wobbling(count: int) -> list[float]:
    return [1.0 + 0.2 * math.sin(step) for step in range(count)]


def test_a_short_history_judges_nothing() -> None:
    assert filled(*wobbling(15)).score(100.0) is None
    assert filled(*wobbling(16)).score(100.0) is not None


def test_a_spike_stands_out_and_the_usual_does_not() -> None:
    history = filled(*wobbling(100))
    assert abs(history.score(1.1)) < 2
    assert history.score(30.0) > 10
    assert history.score(0.05) < -10


def test_one_spike_in_the_history_moves_no_score() -> None:
    calm, shaken = filled(*wobbling(100)), filled(*wobbling(99), 1e6)
    assert shaken.score(5.0) == pytest.approx(calm.score(5.0), rel=0.1)


def test_norms_that_hardly_move_call_no_wobble_a_spike() -> None:
    assert filled(*[1.0] * 50).score(1.05) < 1.0


@pytest.mark.parametrize("norm", [0.0, math.inf, math.nan])
def test_a_norm_without_a_logarithm_is_neither_judged_nor_remembered(norm: float) -> None:
    history = filled(*wobbling(50))
    before = history.state_dict()
    history.add(norm)
    assert history.score(norm) is None
    assert history.state_dict() == before


def test_the_history_goes_through_its_state_and_forgets_the_oldest() -> None:
    history = filled(*wobbling(300))
    again = NormHistory()
    again.load_state_dict(history.state_dict())
    assert len(again.state_dict()) == 128
    assert again.score(3.0) == history.score(3.0)
