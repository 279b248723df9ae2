"""Rounding by lot is right on average, the same in every shard, and moves what rounding stalls."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from keepstep.trainer.optim.rounding import round_stochastic, rounding_key

COUNT = 1 << 16
PLACES = torch.arange(COUNT)


@settings(max_examples=40, deadline=None)
@given(st.floats(-(2.0**100), 2.0**100, width=32), st.integers(0, 2**63 - 1))
def test_the_mean_is_the_value_and_no_value_goes_past_its_neighbours(
    value: float, key: int
) -> None:
    values = torch.full((COUNT,), value)
    rounded = round_stochastic(values, key=key, positions=PLACES).double()
    inner = values[:1].view(torch.int32) & -65536  # towards zero; the next one is away from it
    near, far = (bits.view(torch.float32).double() for bits in (inner, inner + 65536))
    assert bool(((rounded == near) | (rounded == far)).all())
    # The mean of as many lots is off by more than six standard deviations once in a billion.
    error = abs(rounded.mean().item() - values[0].double().item())
    assert error <= 6 * (far - near).abs().item() / 2 / math.sqrt(COUNT)


@pytest.mark.parametrize("part", [0.0, 0.25, 0.5, 0.9])
def test_as_many_go_up_as_the_part_that_is_cut_off_says(part: float) -> None:
    values = torch.full((COUNT,), 1.0 + part / 128)
    rounded = round_stochastic(values, key=7, positions=PLACES)
    assert rounded.dtype is torch.bfloat16
    up = (rounded > 1.0).double().mean().item()
    assert up == pytest.approx(part, abs=6 * 0.5 / math.sqrt(COUNT))


def test_what_bfloat16_holds_stays_as_it_is() -> None:
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.bfloat16)
    found = round_stochastic(every.float(), key=3, positions=torch.arange(every.numel()))
    numbers = ~every.isnan()
    assert torch.equal(found.view(torch.int16)[numbers], every.view(torch.int16)[numbers])
    assert bool(found[~numbers].isnan().all())


def test_lots_follow_from_positions_and_not_from_shards() -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    places = torch.arange(1000)
    whole = round_stochastic(values, key=11, positions=places)
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(1))
    for part in order.split(7):
        found = round_stochastic(values[part], key=11, positions=places[part])
        assert torch.equal(found, whole[part])


def test_positions_beyond_32_bits_differ() -> None:
    values = torch.full((4096,), 1.0 + 1 / 256)
    near = torch.arange(4096)
    found = [round_stochastic(values, key=1, positions=near + far) for far in (0, 2**32, 2**40)]
    equal = [(found[0] == other).double().mean().item() for other in found[1:]]
    assert equal == pytest.approx([0.5, 0.5], abs=0.05)


def test_neighbours_and_steps_draw_independently() -> None:
    values = torch.full((COUNT,), 1.0 + 1 / 256)
    ups = [
        (round_stochastic(values, key=rounding_key(0, step, "a"), positions=PLACES) > 1).double()
        for step in (1, 2)
    ]
    for one, other in ((ups[0], ups[1]), (ups[0][:-1], ups[0][1:])):
        assert torch.corrcoef(torch.stack([one, other]))[0, 1].abs() < 6 / math.sqrt(COUNT)


def test_a_key_is_its_seed_step_and_name() -> None:
    keys = {
        rounding_key(seed, step, name) for seed in (0, 1) for step in (1, 2) for name in ("a", "b")
    }
    assert len(keys) == 8
    assert rounding_key(0, 1, "a") == rounding_key(0, 1, "a")
    assert all(0 <= key < 2**63 for key in keys)


def test_small_steps_stall_when_rounded_to_nearest_and_not_by_lot() -> None:
    """A thousand steps of a thousandth of the unit that bfloat16 has at 1."""
    nearest, by_lot = torch.ones(COUNT // 16).bfloat16(), torch.ones(COUNT // 16).bfloat16()
    places = torch.arange(COUNT // 16)
    for step in range(1000):
        move = 2.0**-7 / 1000
        nearest = (nearest.float() + move).bfloat16()
        key = rounding_key(0, step, "weight")
        by_lot = round_stochastic(by_lot.float() + move, key=key, positions=places)
    assert torch.equal(nearest, torch.ones_like(nearest))
    assert by_lot.double().mean().item() == pytest.approx(1 + 2.0**-7, abs=2.0**-7 * 0.1)
