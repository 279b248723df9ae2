"""The model, and the settings that configs/model/mine.yaml gives values: put your own here.

Shapes: B samples, T positions, N = B * T, V = 256 bytes, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from keepstep.trainer.config import ModelConfig

BYTES = 256


@dataclass(kw_only=True, slots=True)
class MineConfig(ModelConfig):
    """Any fields with types: each is a key of the command line, such as model.width=128."""

    width: int
    blocks: int
    heads: int

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(
                f"model.width: found {self.width}, needed a multiple of model.heads "
                f"({self.heads}); change one of the two"
            )


class Block(nn.Module):
    """Attention to what came before, and a small network on each position."""

    def __init__(self, config: MineConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.think = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x_BTD: Tensor) -> Tensor:
        parts = self.qkv(self.norm(x_BTD)).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x_BTD = x_BTD + self.out(seen)
        return x_BTD + self.think(x_BTD)


class Mine(nn.Module):
    """Predicts the next byte: (B, T) -> (B * T, 256).

    keepstep shards `blocks` by itself, since they are repeated.
    """

    def __init__(self, config: MineConfig, *, length: int) -> None:
        super().__init__()
        self.bytes = nn.Embedding(BYTES, config.width)
        self.places = nn.Parameter(torch.randn(length, config.width) * 0.02)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.head = nn.Linear(config.width, BYTES)

    def forward(self, bytes_BT: Tensor) -> Tensor:
        x_BTD = self.bytes(bytes_BT) + self.places[: bytes_BT.shape[1]]
        for block in self.blocks:
            x_BTD = block(x_BTD)
        return self.head(x_BTD.flatten(0, 1))
