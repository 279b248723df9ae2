"""What stays of what was saved, as a pure function: checkpoints in, those that go out."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepstep.checkpoint.retention import BestMode, Candidate, Keep, removals


def candidate(step: int, **facts: Any) -> Candidate:
    return Candidate(**{"folder": f"step-{step}", "step": step, "is_whole": True, **facts})


CANDIDATES = st.lists(
    st.builds(
        candidate,
        st.integers(0, 40),
        is_whole=st.booleans(),
        metric=st.none() | st.floats(-5, 5),
        is_tagged=st.booleans(),
    ),
    max_size=12,
    unique_by=lambda one: one.step,
)
KEEPS = st.builds(
    Keep,
    last=st.integers(-1, 6),
    every_steps=st.integers(0, 9),
    best=st.integers(0, 4),
    mode=st.sampled_from(BestMode),
)


def steps(gone: list[Candidate]) -> list[int]:
    return [one.step for one in gone]


@given(CANDIDATES, KEEPS)
def test_the_newest_whole_one_and_the_tagged_never_go(found: list[Candidate], keep: Keep) -> None:
    gone = removals(found, keep)
    whole = [one for one in found if one.is_whole]
    assert not whole or whole[0] not in gone
    assert not any(one.is_tagged for one in gone)
    assert len(whole) > 0 or not gone


@given(CANDIDATES, KEEPS)
def test_of_the_whole_ones_at_least_so_many_stay(found: list[Candidate], keep: Keep) -> None:
    gone = removals(found, keep)
    stay = [one for one in found if one.is_whole and one not in gone]
    assert len(stay) >= min(max(keep.last, 1), sum(one.is_whole for one in found))


@given(CANDIDATES, KEEPS)
def test_pruning_again_removes_nothing_more(found: list[Candidate], keep: Keep) -> None:
    gone = removals(found, keep)
    assert removals([one for one in found if one not in gone], keep) == []


def test_a_damaged_one_does_not_count_as_kept() -> None:
    found = [candidate(4, is_whole=False), candidate(3), candidate(2, is_whole=False), candidate(1)]
    assert steps(removals(found, Keep(last=2))) == []
    assert steps(removals(found, Keep(last=1))) == [2, 1]
    assert steps(removals(found[:1], Keep(last=1))) == []


def test_multiples_stay_and_of_a_step_saved_twice_the_newer() -> None:
    again = candidate(100, folder="step-100-again")
    found = [candidate(130), again, candidate(120), candidate(100), candidate(50), candidate(25)]
    gone = removals(found, Keep(last=1, every_steps=50))
    assert [one.folder for one in gone] == ["step-120", "step-100", "step-25"]


@pytest.mark.parametrize(("mode", "stays"), [(BestMode.min, 2), (BestMode.max, 3)])
def test_the_best_by_its_metric_stays(mode: BestMode, stays: int) -> None:
    metrics = {5: None, 4: 2.0, 3: 3.0, 2: 1.0, 1: 2.5}
    found = [candidate(step, metric=metric) for step, metric in metrics.items()]
    gone = removals(found, Keep(last=1, best=1, mode=mode))
    assert steps(gone) == [step for step in (4, 3, 2, 1) if step != stays]


def test_a_damaged_one_is_not_the_best() -> None:
    found = [candidate(3), candidate(2, metric=1.0, is_whole=False), candidate(1, metric=2.0)]
    assert steps(removals(found, Keep(last=1, best=1))) == [2]
