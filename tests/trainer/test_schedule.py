"""Schedules are pure functions: warm-up, the curve, the last step."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepstep.trainer.config import (
    ConstantConfig,
    CosineConfig,
    InverseSqrtConfig,
    LinearConfig,
    ScheduleConfig,
    WSDConfig,
)
from keepstep.trainer.schedule import scale

PARTS = st.floats(0, 1)
COSINES = st.builds(CosineConfig, warmup_steps=st.integers(0, 50), min_ratio=PARTS)
WSDS = st.builds(WSDConfig, warmup_steps=st.integers(0, 50), min_ratio=PARTS, decay_fraction=PARTS)

LINES = st.builds(LinearConfig, warmup_steps=st.integers(0, 50), min_ratio=PARTS)
ROOTS = st.builds(InverseSqrtConfig, warmup_steps=st.integers(0, 50), min_ratio=PARTS)
CONSTANTS = st.builds(ConstantConfig, warmup_steps=st.integers(0, 50))
ALL = st.one_of(COSINES, WSDS, LINES, ROOTS, CONSTANTS)
KINDS = [ConstantConfig, CosineConfig, InverseSqrtConfig, LinearConfig, WSDConfig]


def curve(config: ScheduleConfig, steps: int) -> list[float]:
    return [scale(config, step=step, steps=steps) for step in range(steps)]


@pytest.mark.parametrize("kind", KINDS)
def test_warm_up_is_linear_and_ends_at_the_peak(kind: type[ScheduleConfig]) -> None:
    assert curve(kind(warmup_steps=4), 40)[:4] == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("kind", KINDS)
def test_without_warm_up_the_first_step_is_at_the_peak(kind: type[ScheduleConfig]) -> None:
    assert curve(kind(warmup_steps=0), 10)[0] == 1.0


@given(ALL, st.integers(200, 1000))
def test_nothing_jumps_at_the_end_of_the_warm_up(config: ScheduleConfig, steps: int) -> None:
    after = config.warmup_steps
    found = [scale(config, step=step, steps=steps) for step in (after, after + 1)]
    if not (isinstance(config, WSDConfig) and config.decay_fraction * steps > steps - after - 2):
        assert scale(config, step=max(0, after - 1), steps=steps) == 1.0
        # No fall is steeper than from 1 to the root of 1/2, that of the root without a warm-up.
        assert found[0] >= found[1] >= found[0] - 0.3


def test_cosine_is_half_way_in_the_middle_and_ends_at_the_minimum() -> None:
    found = curve(CosineConfig(warmup_steps=2, min_ratio=0.2), 23)
    assert found[12] == pytest.approx(0.6)
    assert found[-1] == pytest.approx(0.2)
    assert found[2:] == sorted(found[2:], reverse=True)


def test_cosine_stays_at_the_minimum_past_its_end() -> None:
    assert scale(CosineConfig(min_ratio=0.1), step=500, steps=100) == pytest.approx(0.1)


def test_wsd_is_flat_then_falls_in_equal_parts_to_the_minimum() -> None:
    config = WSDConfig(warmup_steps=2, min_ratio=0.0, decay_fraction=0.4)
    found = curve(config, 10)
    assert found[2:6] == [1.0] * 4
    assert found[6:] == pytest.approx([0.75, 0.5, 0.25, 0.0])


def test_wsd_without_a_decay_stays_at_the_peak() -> None:
    assert curve(WSDConfig(warmup_steps=0, decay_fraction=0.0), 10) == [1.0] * 10


@given(ALL, st.integers(1, 200))
def test_no_step_leaves_the_range_from_nothing_to_the_peak(
    config: ScheduleConfig, steps: int
) -> None:
    found = curve(config, steps)
    assert all(0.0 <= part <= 1.0 for part in found)
    after = found[config.warmup_steps :]
    assert all(part >= config.min_ratio - 1e-12 for part in after)
    assert all(b <= a + 1e-12 for a, b in itertools.pairwise(after))


@given(st.one_of(COSINES, LINES), st.integers(0, 100))
def test_cosine_and_line_end_at_their_minimum_whatever_the_length(
    config: ScheduleConfig, more: int
) -> None:
    steps = config.warmup_steps + 2 + more
    assert curve(config, steps)[-1] == pytest.approx(config.min_ratio)


def test_a_line_falls_in_equal_parts() -> None:
    found = curve(LinearConfig(warmup_steps=2, min_ratio=0.2), 7)
    assert found == pytest.approx([0.5, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2])


def test_a_root_is_half_at_four_times_the_warm_up_and_heeds_its_floor() -> None:
    found = curve(InverseSqrtConfig(warmup_steps=10, min_ratio=0.3), 200)
    assert found[9] == 1.0
    assert found[39] == pytest.approx(0.5)
    assert found[-1] == 0.3


@given(ROOTS, st.integers(0, 1000), st.integers(1, 50))
def test_a_root_does_not_know_the_length_of_the_run(
    config: InverseSqrtConfig, step: int, steps: int
) -> None:
    assert scale(config, step=step, steps=steps) == scale(config, step=step, steps=7)


@given(CONSTANTS, st.integers(1, 200))
def test_a_constant_stays_at_the_peak(config: ConstantConfig, steps: int) -> None:
    assert set(curve(config, steps)[config.warmup_steps :]) <= {1.0}


def test_a_schedule_without_a_function_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="schedule: found ScheduleConfig, needed constant, cosine"):
        scale(ScheduleConfig(), step=30, steps=100)
