"""A Vision Transformer (Dosovitskiy et al., arXiv 2010.11929) that classifies square images.

This file knows nothing of ranks. Shapes: B batch, C channels, S pixels a side, P positions (the
patches and the class token before them), D width, H heads, F head width, N classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...parallel import Attend, Cut, Normal, Ones, Plan, Style, Zeros
from ..config import ViTConfig

TENSOR_STYLES = (
    *(("blocks.*.attention", Style.gather), ("blocks.*.mlp", Style.gather)),
    *((f"blocks.*.{name}_proj", Style.column) for name in ("q", "k", "v", "up")),
    *((f"blocks.*.{name}_proj", Style.row) for name in ("o", "down")),
)


class Embed(nn.Module):
    """Images (B, C, S, S) -> the class token and the patches, with learned positions (B, P, D)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.side = config.patch_size
        count = (config.image_size // config.patch_size) ** 2
        self.patch_proj = nn.Linear(config.num_channels * config.patch_size**2, config.hidden_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.positions = nn.Parameter(torch.zeros(1, count + 1, config.hidden_size))

    def forward(self, images_BCSS: Tensor) -> Tensor:
        patches = F.unfold(images_BCSS, self.side, stride=self.side).transpose(1, 2)
        x_BPD = self.patch_proj(patches)
        x_BPD = torch.cat((self.class_token.expand(x_BPD.shape[0], -1, -1), x_BPD), 1)
        return x_BPD + self.positions


class Attention(nn.Module):
    """Self-attention in which every position sees every other one."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        width, self.head_width = config.hidden_size, config.hidden_size // config.num_heads
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.o_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.attend = Attend()

    def forward(self, x_BPD: Tensor) -> Tensor:
        q, k, v = (
            projection(x_BPD).unflatten(-1, (-1, self.head_width)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        y_BHPF = self.attend(q, k, v, is_causal=False)
        y: Tensor = self.o_proj(y_BHPF.transpose(1, 2).flatten(-2))
        return y


class MLP(nn.Module):
    """Feed-forward with GELU (arXiv 1606.08415)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x_BPD: Tensor) -> Tensor:
        y: Tensor = self.down_proj(F.gelu(self.up_proj(x_BPD)))
        return y


class Block(nn.Module):
    """Pre-norm residual block: attention, then feed-forward."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden_size, config.norm_eps)
        self.attention = Attention(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, config.norm_eps)
        self.mlp = MLP(config)

    def forward(self, x_BPD: Tensor) -> Tensor:
        x_BPD = x_BPD + self.attention(self.attention_norm(x_BPD))
        y: Tensor = x_BPD + self.mlp(self.mlp_norm(x_BPD))
        return y


class Classifier(nn.Module):
    """Logits (B, N) of the class token's last state."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size, config.norm_eps)
        self.proj = nn.Linear(config.hidden_size, config.num_classes)

    def forward(self, x_BPD: Tensor) -> Tensor:
        logits: Tensor = self.proj(self.norm(x_BPD[:, 0]))
        return logits


class ViT(nn.Module):
    """Images (B, C, S, S), float -> logits (B, N)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.embed = Embed(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.classifier = Classifier(config)

    def forward(self, images_BCSS: Tensor) -> Tensor:
        """Logits of the classes."""
        x_BPD = self.embed(images_BCSS)
        for block in self.blocks:
            x_BPD = block(x_BPD)
        logits: Tensor = self.classifier(x_BPD)
        return logits


def vit_plan(config: ViTConfig) -> Plan:
    """How a ViT is laid out. Between its matrices activations stay whole: with the class token the
    positions are an odd number. Context parallelism has nothing to cut."""
    return Plan(
        units=("blocks.*",),
        initial=(
            ("*norm.weight", Ones()),
            *(("*.bias", Zeros()), ("*class_token", Zeros())),
            ("*", Normal(std=config.initializer_range)),
        ),
        tensor=TENSOR_STYLES,
        has_sequence=False,
        heads=(config.num_heads,),
        cut=Cut(first=("embed",), blocks="blocks.*", last=("classifier",)),
        flops_per_token=flops_per_image(config),
    )


def flops_per_image(config: ViTConfig) -> float:
    """Training FLOPs an image, counted as `llama.flops_per_token` does."""
    width, positions = config.hidden_size, (config.image_size // config.patch_size) ** 2 + 1
    block = 4 * width * width + 2 * width * config.intermediate_size
    patch = config.num_channels * config.patch_size**2 * width
    weights = config.num_layers * block * positions + patch * (positions - 1)
    weights += width * config.num_classes
    return float(6 * weights + 12 * config.num_layers * width * positions * positions)
