"""The nearest orthogonal matrix, roughly: Newton-Schulz iterations over stacks of matrices."""

import math

import torch
from torch import Tensor

from .config import MuonScale

# Keller Jordan, https://kellerjordan.github.io/posts/muon/: the quintic that grows small singular
# values fastest; it takes them to somewhere between 0.7 and 1.2 instead of to 1, which is enough.
_LINEAR, _CUBIC, _QUINTIC = 3.4445, -4.7750, 2.0315
_EPS = 1e-7


def orthogonalise(matrices: Tensor, *, iterations: int, dtype: torch.dtype) -> Tensor:
    """Takes the singular values of each matrix near 1 and keeps its singular vectors; 0 stays 0.

    Args:
        matrices: float32 [..., rows, columns].
        dtype: what the products are computed in.

    Returns:
        float32 of the same shape.
    """
    is_tall = matrices.size(-2) > matrices.size(-1)
    x = (matrices.mT if is_tall else matrices).to(dtype)
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + _EPS)  # no singular value above 1
    for _ in range(iterations):
        gram = x @ x.mT
        x = _LINEAR * x + (_CUBIC * gram + _QUINTIC * (gram @ gram)) @ x
    done: Tensor = x.mT if is_tall else x
    return done.float()


def as_matrices(tensor: Tensor) -> Tensor:
    """A view [stack, rows, columns]: a stack of 1 for two dims, the first dim for three, and a
    convolution's four or more as one matrix of an output channel a row."""
    if tensor.ndim == 3:
        return tensor
    return tensor.flatten(1).unsqueeze(0)


def step_size(shape: torch.Size, scale: MuonScale) -> float:
    """What the orthogonal matrices of a parameter of this shape are multiplied by."""
    rows, columns = shape[-2:] if len(shape) == 3 else (shape[0], math.prod(shape[1:]))
    if scale is MuonScale.adamw:
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(max(1.0, rows / columns))
