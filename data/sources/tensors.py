"""Samples that are already tensors in memory, for a script of one's own and for tests."""

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from torch import Tensor


class TensorSource:
    """Rows of tensors that share their first dimension, the number of samples.

    Raises:
        ValueError: no tensors, or tensors of different length.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        lengths = {name: len(tensor) for name, tensor in tensors.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(
                f"TensorSource: found tensors of lengths {lengths}, needed one length for at "
                "least one tensor; give every tensor one row a sample"
            )
        self._tensors = tensors
        self.digest = _digest(tensors)

    def __len__(self) -> int:
        return len(next(iter(self._tensors.values())))

    def read(self, ids: npt.NDArray[np.int64]) -> dict[str, Tensor]:
        """Copies the rows `ids`, on the tensors' own device."""
        index = torch.from_numpy(ids)
        return {
            name: tensor.index_select(0, index.to(tensor.device))
            for name, tensor in self._tensors.items()
        }


def _digest(tensors: dict[str, Tensor]) -> str:
    state = xxhash.xxh3_128()
    for name, tensor in sorted(tensors.items()):
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        plain = tensor.detach().cpu().contiguous().reshape(-1)
        state.update(plain.view(torch.uint8).numpy().data)
    return state.hexdigest()
