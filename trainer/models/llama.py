"""A Llama-style decoder (Touvron et al., arXiv 2302.13971; grouped-query attention 2305.13245).

Parameter names are those of Hugging Face's LlamaForCausalLM, so that weights need no map. This file
knows nothing of ranks. Shapes: B batch, T positions, D width, H heads, K key-value heads, F head
width, V vocabulary.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...parallel import Attend, Cut, Head, Initial, Normal, Ones, Plan, Style
from ..config import LlamaConfig

# Of all but the feed-forwards, and of the linear layers inside these.
FRAME_STYLES = (
    *(("embed_tokens", Style.vocabulary), ("layers.*.self_attn", Style.gather)),
    *((f"layers.*.{name}_proj", Style.column) for name in ("q", "k", "v")),
    *(("layers.*.o_proj", Style.row), ("*norm", Style.sequence)),
    ("lm_head", Style.vocabulary),
)
DENSE_STYLES = (
    *((f"layers.*.{name}_proj", Style.column) for name in ("gate", "up")),
    ("layers.*.down_proj", Style.row),
)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation in fp32 (arXiv 1910.07467)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x_BTD: Tensor) -> Tensor:
        return F.rms_norm(x_BTD, self.weight.shape, self.weight, self.eps)


class Rotary(nn.Module):
    """Rotary positions (arXiv 2104.09864): cos and sin tables, rebuilt and never saved."""

    cos_TF: Tensor
    sin_TF: Tensor

    def __init__(self, head_width: int, max_length: int, theta: float) -> None:
        super().__init__()
        self.head_width, self.max_length, self.theta = head_width, max_length, theta
        for name in ("cos_TF", "sin_TF"):
            self.register_buffer(name, torch.empty(max_length, head_width), persistent=False)
        if not self.cos_TF.is_meta:  # there are no values there, and torch takes long for none
            self.rebuild_buffers()

    def rebuild_buffers(self) -> None:
        """Computes the tables anew, on the device where they are."""
        device = self.cos_TF.device
        powers = torch.arange(0, self.head_width, 2, device=device, dtype=torch.float32)
        frequencies = self.theta ** (-powers / self.head_width)
        angles = torch.outer(torch.arange(self.max_length, device=device), frequencies).repeat(1, 2)
        self.cos_TF.copy_(angles.cos())
        self.sin_TF.copy_(angles.sin())

    def forward(self, x_BHTF: Tensor, positions_BT: Tensor | None = None) -> Tensor:
        half = x_BHTF.shape[-1] // 2
        turned = torch.cat((-x_BHTF[..., half:], x_BHTF[..., :half]), dim=-1)
        cos, sin = (self._at(table, x_BHTF, positions_BT) for table in (self.cos_TF, self.sin_TF))
        return x_BHTF * cos + turned * sin

    @staticmethod
    def _at(table_TF: Tensor, x_BHTF: Tensor, positions_BT: Tensor | None) -> Tensor:
        if positions_BT is None:
            return table_TF[: x_BHTF.shape[-2]].to(x_BHTF.dtype)
        return table_TF[positions_BT].unsqueeze(1).to(x_BHTF.dtype)


class Attention(nn.Module):
    """Causal self-attention with fewer key-value heads than query heads."""

    def __init__(self, config: LlamaConfig, max_length: int) -> None:
        super().__init__()
        width, self.head_width = config.hidden_size, config.hidden_size // config.num_heads
        kv_width = config.num_kv_heads * self.head_width
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, kv_width, bias=False)
        self.v_proj = nn.Linear(width, kv_width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)
        self.rotary_emb = Rotary(self.head_width, max_length, config.rope_theta)
        self.attend = Attend()

    def forward(
        self, x_BTD: Tensor, positions_BT: Tensor | None = None, documents_BT: Tensor | None = None
    ) -> Tensor:
        q, k, v = (
            projection(x_BTD).unflatten(-1, (-1, self.head_width)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = self.rotary_emb(q, positions_BT), self.rotary_emb(k, positions_BT)
        y_BHTF = self.attend(q, k, v, documents_BT=documents_BT)
        y: Tensor = self.o_proj(y_BHTF.transpose(1, 2).flatten(-2))
        return y


class MLP(nn.Module):
    """SwiGLU feed-forward (arXiv 2002.05202)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        y: Tensor = self.down_proj(F.silu(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))
        return y


class Block(nn.Module):
    """Pre-norm residual block: attention, then the feed-forward `mlp`, (B, T, D) -> (B, T, D)."""

    def __init__(self, config: LlamaConfig, max_length: int, mlp: nn.Module) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.self_attn = Attention(config, max_length)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.mlp = mlp

    def forward(
        self, x_BTD: Tensor, positions_BT: Tensor | None = None, documents_BT: Tensor | None = None
    ) -> Tensor:
        h_BTD = self.input_layernorm(x_BTD)
        x_BTD = x_BTD + self.self_attn(h_BTD, positions_BT, documents_BT)
        y: Tensor = x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))
        return y


class Llama(nn.Module):
    """Token ids (B, T), int64 -> logits (B, T, V), or with targets their summed cross entropy.

    Args:
        feed_forward: makes the feed-forward of a layer, by its number; None: SwiGLUs.
    """

    def __init__(
        self,
        config: LlamaConfig,
        *,
        vocabulary_size: int,
        max_length: int,
        loss_chunk_tokens: int = 1024,
        feed_forward: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.max_length = max_length
        make = feed_forward or (lambda _: MLP(config.hidden_size, config.intermediate_size))
        self.embed_tokens = nn.Embedding(vocabulary_size, config.hidden_size)
        self.layers = nn.ModuleList(
            Block(config, max_length, make(number)) for number in range(config.num_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.lm_head = Head(config.hidden_size, vocabulary_size, chunk_tokens=loss_chunk_tokens)
        if config.tie_embeddings:
            self.lm_head.weight = self.embed_tokens.weight

    def forward(
        self,
        tokens_BT: Tensor,
        targets_BT: Tensor | None = None,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
    ) -> Tensor:
        """Logits, or with targets (-100 counts for nothing) their cross entropy, summed, fp32.

        Args:
            positions_BT: of the tokens in their sequence, (B, T) or (1, T); None counts from 0.
            documents_BT: ids; a token attends to those of its own document only.
        """
        x_BTD = self.embed_tokens(tokens_BT)
        for layer in self.layers:
            x_BTD = layer(x_BTD, positions_BT, documents_BT)
        output: Tensor = self.lm_head(self.norm(x_BTD), targets_BT)
        return output


def llama_plan(config: LlamaConfig, *, vocabulary_size: int, sequence_length: int) -> Plan:
    """How a Llama is laid out: units, initial values (output projections scaled down by depth, as
    GPT-2 does), tied weights, and FLOPs a token."""
    std = config.initializer_range
    deep: Initial = Normal(std=std / (2 * config.num_layers) ** 0.5)
    return Plan(
        units=("layers.*",),
        initial=(
            ("*norm.weight", Ones()),
            ("*o_proj.weight", deep),
            ("*down_proj.weight", deep),
            ("*", Normal(std=std)),
        ),
        tied=(("lm_head.weight", "embed_tokens.weight"),) if config.tie_embeddings else (),
        tensor=(*FRAME_STYLES, ("layers.*.mlp", Style.gather), *DENSE_STYLES),
        heads=(config.num_heads, config.num_kv_heads),
        cut=Cut(first=("embed_tokens",), blocks="layers.*", last=("norm", "lm_head")),
        sequence_inputs=("tokens_BT", "targets_BT", "positions_BT", "documents_BT"),
        positions="positions_BT",
        flops_per_token=flops_per_token(config, vocabulary_size, sequence_length),
    )


def flops_per_token(config: LlamaConfig, vocabulary_size: int, sequence_length: int) -> float:
    """Training FLOPs a token: 6 per matrix weight, plus 12 x layers x width x length of attention
    without credit for the causal half (the convention of PaLM, arXiv 2204.02311, appendix B)."""
    dense = 3 * config.hidden_size * config.intermediate_size
    return flops_of(config, vocabulary_size, sequence_length, config.num_layers * dense)


def flops_of(
    config: LlamaConfig, vocabulary_size: int, sequence_length: int, feed_forward_weights: int
) -> float:
    """As `flops_per_token`, with feed-forwards that use so many weights for one token, together."""
    width = config.hidden_size
    kv_width = width // config.num_heads * config.num_kv_heads
    attention = config.num_layers * (2 * width * width + 2 * width * kv_width)
    weights = attention + feed_forward_weights + width * vocabulary_size
    return float(6 * weights + 12 * config.num_layers * width * sequence_length)
