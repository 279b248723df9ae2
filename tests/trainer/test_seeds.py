"""Seeds of micro-batches: the same for the same place in a run, far apart for any other."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from keepstep.trainer.seeds import seed_of

small = st.integers(0, 1 << 20)


@given(small, small, small, small)
def test_every_part_of_the_place_changes_what_torch_draws(
    seed: int, step: int, place: int, number: int
) -> None:
    found = seed_of(seed, step, place)(0, number)
    assert found == seed_of(seed, step, place)(0, number)
    others = {
        seed_of(seed + 1, step, place)(0, number),
        seed_of(seed, step + 1, place)(0, number),
        seed_of(seed, step, place + 1)(0, number),
        seed_of(seed, step, place)(1, number),
        seed_of(seed, step, place)(0, number + 1),
    }
    low = {one & 0xFFFF_FFFF for one in (found, *others)}
    assert len(low) == 6  # the bits that torch's generator on the CPU takes


def test_a_seed_is_one_that_torch_takes() -> None:
    for number in range(100):
        torch.manual_seed(seed_of(2**40, 2**40, 0)(0, number))
