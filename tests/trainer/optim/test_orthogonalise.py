"""Newton-Schulz takes singular values near 1; sizes of steps."""

import math

import pytest
import torch

from keepstep.trainer.optim.config import MuonScale
from keepstep.trainer.optim.orthogonalise import as_matrices, orthogonalise, step_size


@pytest.mark.parametrize("shape", [(12, 12), (5, 30), (30, 5), (1, 9), (4, 6, 10)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_singular_values_come_near_one_and_vectors_stay(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    values = torch.linspace(0.1, 3.0, left.size(-1))
    found = orthogonalise(left * values @ right, iterations=5, dtype=dtype)
    assert found.dtype is torch.float32
    inside = left.mT @ found @ right.mT
    diagonal = inside.diagonal(dim1=-2, dim2=-1)
    assert 0.6 < diagonal.min().item() <= diagonal.max().item() < 1.3
    off = (inside - torch.diag_embed(diagonal)).abs().max().item()
    assert off < (1e-4 if dtype is torch.float32 else 0.05)


def test_zero_stays_zero_and_size_does_not_matter() -> None:
    assert not orthogonalise(torch.zeros(3, 4), iterations=5, dtype=torch.float32).any()
    matrix = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    small, large = (
        orthogonalise(matrix * size, iterations=5, dtype=torch.float32) for size in (1e-3, 1e3)
    )
    torch.testing.assert_close(small, large, rtol=1e-2, atol=1e-3)


def test_stacks_and_convolutions_become_matrices() -> None:
    assert as_matrices(torch.zeros(3, 4)).shape == (1, 3, 4)
    assert as_matrices(torch.zeros(5, 3, 4)).shape == (5, 3, 4)
    assert as_matrices(torch.zeros(8, 4, 3, 3)).shape == (1, 8, 36)


@pytest.mark.parametrize(
    ("shape", "scale", "wanted"),
    [
        ((16, 64), MuonScale.adamw, 0.2 * 8),
        ((7, 16, 4), MuonScale.adamw, 0.2 * 4),
        ((8, 4, 4, 4), MuonScale.adamw, 0.2 * 8),
        ((16, 64), MuonScale.original, 1.0),
        ((64, 16), MuonScale.original, 2.0),
    ],
)
def test_the_size_of_a_step_follows_from_the_shape(
    shape: tuple[int, ...], scale: MuonScale, wanted: float
) -> None:
    assert math.isclose(step_size(torch.Size(shape), scale), wanted)
