"""Tensors of one's own are a source when they agree on the number of samples."""

import pytest
import torch

from keepstep.data import TensorSource


def test_tensors_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"found tensors of lengths \{'x': 2, 'y': 3\}"):
        TensorSource({"x": torch.zeros(2), "y": torch.zeros(3)})


def test_no_tensors_are_refused() -> None:
    with pytest.raises(ValueError, match=r"found tensors of lengths \{\}"):
        TensorSource({})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.bool, torch.int64, torch.float32])
def test_a_digest_needs_no_particular_dtype_or_layout(dtype: torch.dtype) -> None:
    tensor = torch.arange(12).reshape(3, 4).to(dtype)
    assert TensorSource({"x": tensor}).digest == TensorSource({"x": tensor.clone()}).digest
    assert TensorSource({"x": tensor.T}).digest != TensorSource({"x": tensor}).digest
