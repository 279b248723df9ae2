"""The split follows names and seed alone, and leaves no side empty."""

import numpy as np
import pytest

from keepstep.data.prepare.stages.split import held_out
from keepstep.data.prepare.stages.survey import split_hash


def hashes(count: int, seed: int = 0) -> np.ndarray:
    found = (split_hash(f"document {n}", seed) for n in range(count))
    return np.fromiter(found, np.uint64, count)


def test_about_the_asked_share_is_held_out() -> None:
    assert held_out(hashes(20_000), 0.05).mean() == pytest.approx(0.05, abs=0.01)


def test_a_document_keeps_its_side_when_others_come() -> None:
    assert (held_out(hashes(1000), 0.1) == held_out(hashes(3000), 0.1)[:1000]).all()


def test_another_seed_holds_out_others() -> None:
    one, other = held_out(hashes(1000), 0.5), held_out(hashes(1000, seed=1), 0.5)
    assert (one != other).mean() > 0.3


@pytest.mark.parametrize("fraction", [1e-9, 1 - 1e-9])
@pytest.mark.parametrize("count", [2, 3, 50])
def test_no_side_is_empty(count: int, fraction: float) -> None:
    held = held_out(hashes(count), fraction)
    assert 0 < held.sum() < count
