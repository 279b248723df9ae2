"""The output projection of a language model: logits, or their summed loss without holding them."""

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from .cross_entropy import linear_cross_entropy


@final
class Head(nn.Linear):
    """A linear layer to the vocabulary that can give its cross entropy in place of its logits.

    Args:
        width: features of what it is given.
        vocabulary_size: number of its outputs.
        chunk_tokens: positions whose logits exist at once where the loss is asked for.
    """

    def __init__(self, width: int, vocabulary_size: int, *, chunk_tokens: int = 1024) -> None:
        super().__init__(width, vocabulary_size, bias=False)
        self.chunk_tokens = chunk_tokens
        self.mesh: DeviceMesh | None = None
        self.start = 0

    def cut_over(self, mesh: DeviceMesh) -> None:
        """From now on each rank of the mesh has its part of the vocabulary in `weight`."""
        self.mesh = mesh
        part = -(-self.out_features // mesh.size())
        self.start = min(self.out_features, part * mesh.get_local_rank())

    def forward(self, hidden_BTD: Tensor, targets_BT: Tensor | None = None) -> Tensor:
        """Returns the logits (B, T, V); with targets their cross entropy, summed, 0-d, fp32.

        Args:
            targets_BT: token ids, int64; what is -100 counts for nothing.
        """
        if targets_BT is None:
            return self._whole(F.linear(hidden_BTD, self.weight))
        return linear_cross_entropy(
            hidden_BTD,
            self.weight,
            targets_BT,
            chunk_tokens=self.chunk_tokens,
            group=None if self.mesh is None else self.mesh.get_group(),
            vocabulary_start=self.start,
        )

    def _whole(self, logits_BTV: Tensor) -> Tensor:
        """Collective where the vocabulary is cut: all logits, from each rank's."""
        if self.mesh is None:
            return logits_BTV
        shape = torch.Size((*logits_BTV.shape[:-1], self.out_features))
        stride = torch.empty(shape, device="meta").stride()
        cut = DTensor.from_local(
            logits_BTV, self.mesh, [Shard(-1)], run_check=False, shape=shape, stride=stride
        )
        return cut.full_tensor()
