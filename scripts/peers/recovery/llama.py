"""The tiny Llama of scripts/bench_recovery in plain torch: the tensors of keepstep's, which a test
compares by name and shape, for environments that have torch alone. A restart imports nothing more.

Shapes: B batch, T positions, D width, H heads, K key-value heads, F head width, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VOCABULARY, LENGTH = 4096, 64
HIDDEN, INTERMEDIATE, LAYERS, HEADS, KV_HEADS = 64, 128, 2, 4, 2
LEARNING_RATE = 1e-3


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.k_proj = nn.Linear(HIDDEN, HIDDEN * KV_HEADS // HEADS, bias=False)
        self.v_proj = nn.Linear(HIDDEN, HIDDEN * KV_HEADS // HEADS, bias=False)
        self.o_proj = nn.Linear(HIDDEN, HIDDEN, bias=False)

    def forward(self, x_BTD: Tensor, cos_TF: Tensor, sin_TF: Tensor) -> Tensor:
        q, k, v = (
            projection(x_BTD).unflatten(-1, (-1, HIDDEN // HEADS)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = (turned(x, cos_TF, sin_TF) for x in (q, k))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.o_proj(y.transpose(1, 2).flatten(-2))


def turned(x: Tensor, cos_TF: Tensor, sin_TF: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x * cos_TF + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin_TF


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(HIDDEN, INTERMEDIATE, bias=False)
        self.up_proj = nn.Linear(HIDDEN, INTERMEDIATE, bias=False)
        self.down_proj = nn.Linear(INTERMEDIATE, HIDDEN, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(HIDDEN, eps=1e-5)
        self.self_attn = Attention()
        self.post_attention_layernorm = nn.RMSNorm(HIDDEN, eps=1e-5)
        self.mlp = MLP()

    def forward(self, x_BTD: Tensor, cos_TF: Tensor, sin_TF: Tensor) -> Tensor:
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), cos_TF, sin_TF)
        return x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))


class Llama(nn.Module):
    """Token ids (B, T) -> logits (B, T, V)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCABULARY, HIDDEN)
        self.layers = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.RMSNorm(HIDDEN, eps=1e-5)
        self.lm_head = nn.Linear(HIDDEN, VOCABULARY, bias=False)
        width = HIDDEN // HEADS
        powers = torch.arange(0, width, 2) / width
        self.angles_TF = torch.outer(torch.arange(LENGTH), 1e4**-powers).repeat(1, 2)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x_BTD = self.embed_tokens(tokens_BT)
        for layer in self.layers:
            x_BTD = layer(x_BTD, self.angles_TF.cos(), self.angles_TF.sin())
        return self.lm_head(self.norm(x_BTD))


def loss_of(model: nn.Module, generator: torch.Generator) -> Tensor:
    """Of one sample of random tokens: reading data costs the peers nothing."""
    tokens = torch.randint(VOCABULARY, (1, LENGTH + 1), generator=generator)
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
