"""A Llama whose feed-forwards are mixtures of experts (DeepSeek-V3, arXiv 2412.19437).

Parameter names are those of Hugging Face's DeepseekV3ForCausalLM, the experts of a layer stacked.
This file knows nothing of ranks. Shapes: B batch, T positions, D width, N = B x T rows, E experts,
K experts of one row.
"""

from dataclasses import replace

from torch import Tensor, nn

from ...parallel import Experts, Normal, Plan, Router, Style, permute
from ..config import LoadBalance, MoEConfig
from .llama import DENSE_STYLES, FRAME_STYLES, MLP, Llama, flops_of, llama_plan


class MoE(nn.Module):
    """A routed feed-forward: each row's K experts, weighted, and the shared expert if there is one.

    No expert has a capacity and no row is dropped, so that a row's output depends on it alone.
    """

    def __init__(self, config: MoEConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.moe_intermediate_size
        by = config.load_balance
        self.gate = Router(
            config.num_experts,
            width,
            top_k=config.num_experts_per_token,
            scale=config.routed_scaling_factor,
            bias_rate=config.balance_bias_rate if by is LoadBalance.bias else 0.0,
            loss_weight=config.balance_loss_weight if by is LoadBalance.loss else 0.0,
        )
        self.experts = Experts(config.num_experts, width, inner)
        self.shared_experts = (
            MLP(width, inner * config.num_shared_experts) if config.num_shared_experts else None
        )

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_ND = x_BTD.flatten(0, 1)
        chosen_NK, weights_NK, counts_E = self.gate(x_ND)
        order = chosen_NK.flatten().argsort(stable=True)
        back = order.argsort()
        copies_ND = x_ND.unsqueeze(1).expand(-1, chosen_NK.shape[1], -1).flatten(0, 1)
        done_ND = self.experts(permute(copies_ND, order, back), counts_E)
        done_NKD = permute(done_ND, back, order).unflatten(0, chosen_NK.shape)
        y_BTD: Tensor = (
            (done_NKD * weights_NK.unsqueeze(-1).to(done_NKD.dtype)).sum(1).view_as(x_BTD)
        )
        return y_BTD if self.shared_experts is None else y_BTD + self.shared_experts(x_BTD)


def moe(
    config: MoEConfig, *, vocabulary_size: int, max_length: int, loss_chunk_tokens: int = 1024
) -> Llama:
    """A Llama with a mixture of experts in each layer but the first `num_dense_layers`."""

    def feed_forward(number: int) -> nn.Module:
        if number < config.num_dense_layers:
            return MLP(config.hidden_size, config.intermediate_size)
        return MoE(config)

    return Llama(
        config,
        vocabulary_size=vocabulary_size,
        max_length=max_length,
        loss_chunk_tokens=loss_chunk_tokens,
        feed_forward=feed_forward,
    )


def moe_plan(config: MoEConfig, *, vocabulary_size: int, sequence_length: int) -> Plan:
    """How it is laid out: as a Llama, with the layers of experts as sums of parts."""
    plan = llama_plan(config, vocabulary_size=vocabulary_size, sequence_length=sequence_length)
    deep = Normal(std=config.initializer_range / (2 * config.num_layers) ** 0.5)
    dense = tuple((f"layers.{i}.mlp", Style.gather) for i in range(config.num_dense_layers))
    has_linear = config.num_dense_layers or config.num_shared_experts
    return replace(
        plan,
        initial=(("*.experts.down_proj", deep), *plan.initial),
        tensor=(
            *FRAME_STYLES,
            *(*dense, ("layers.*.mlp", Style.partial)),
            *(DENSE_STYLES if has_linear else ()),
        ),
        num_experts=config.num_experts,
        flops_per_token=flops_per_token(config, vocabulary_size, sequence_length),
    )


def flops_per_token(config: MoEConfig, vocabulary_size: int, sequence_length: int) -> float:
    """As the Llama's; of the experts those that a token goes to, and the router."""
    width, num_dense = config.hidden_size, config.num_dense_layers
    experts = config.num_experts_per_token + config.num_shared_experts
    sparse = width * config.num_experts + 3 * width * config.moe_intermediate_size * experts
    dense = 3 * width * config.intermediate_size
    weights = num_dense * dense + (config.num_layers - num_dense) * sparse
    return flops_of(config, vocabulary_size, sequence_length, weights)
