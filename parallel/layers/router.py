"""The router of a layer of experts: which experts a row goes to, and with what weight.

Owns the counts of what it chose and what steers them; `balance` sums and applies them once a step.
Shapes: N rows, E experts, D width, K experts of one row.
"""

from collections.abc import Callable
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_TINY = 1e-20


@final
class Router(nn.Module):
    """Sigmoid scores, the K largest of a row, normalised to the sum `scale` (DeepSeek-V3, arXiv
    2412.19437, section 2.1.2). Computes in float32.

    No row is dropped, whatever the counts; two ways of keeping them even:

    `bias_rate` above 0: a bias that is added to the scores for the choice alone, not for the
    weights, and that moves by `bias_rate` once a step, up where an expert had less than the mean
    (arXiv 2408.15664). It is saved with the model.

    `loss_weight` above 0: the gradient of an auxiliary loss, E x sum over experts of (part of the
    choices) x (mean normalised score), arXiv 2101.03961 with the scores of arXiv 2412.19437. It is
    of one micro-batch, that of all its sequences in whole, times the micro-batch's tokens: so it
    adds to a loss that is a sum over tokens, and weighs `loss_weight` when that is divided by their
    number. The loss that the model returns does not contain it.

    Args:
        num_experts: E.
        width: D.
        top_k: K, at most E.
        scale: of a row's weights.
    """

    e_score_correction_bias: Tensor
    load_E: Tensor
    unit: Callable[[], float]
    """What one of the summed loss counts in backward, which the trainer divides and scales."""
    whole: Callable[[Tensor], Tensor]
    """Sums counts over the ranks that have a part each of the same sequences."""

    def __init__(
        self,
        num_experts: int,
        width: int,
        *,
        top_k: int,
        scale: float = 1.0,
        bias_rate: float = 0.0,
        loss_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_experts, self.top_k, self.scale = num_experts, top_k, scale
        self.bias_rate, self.loss_weight = bias_rate, loss_weight
        self.weight = nn.Parameter(torch.empty(num_experts, width))
        if bias_rate > 0:
            self.register_buffer("e_score_correction_bias", torch.empty(num_experts))
        load = torch.empty(num_experts, dtype=torch.int64)
        self.register_buffer("load_E", load, persistent=False)
        self.unit, self.whole, self.copies = _one, _same, 1
        self.rebuild_buffers()

    def rebuild_buffers(self) -> None:
        """Begins anew: no bias, nothing counted."""
        for buffer in self.buffers():
            buffer.zero_()

    def forward(self, rows_ND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the experts of each row (N, K), int64, their weights (N, K), float32, and how
        many rows each expert has (E,), int64. Collective over the ranks of a sequence where it has
        a loss."""
        scores_NE = F.linear(rows_ND.float(), self.weight.float()).sigmoid()
        steered_NE = scores_NE.detach()
        if self.bias_rate > 0:
            steered_NE = steered_NE + self.e_score_correction_bias
        chosen_NK = steered_NE.topk(self.top_k).indices
        flat = chosen_NK.flatten()
        counts_E = torch.zeros_like(self.load_E).scatter_add_(0, flat, torch.ones_like(flat))
        weights_NK = scores_NE.gather(1, chosen_NK)
        weights_NK = weights_NK * (self.scale / weights_NK.sum(1, keepdim=True).clamp(min=_TINY))
        self._count(counts_E)
        if self.loss_weight > 0 and torch.is_grad_enabled():
            loss = self._loss(scores_NE, self.whole(counts_E))
            weights_NK = _Attach.apply(weights_NK, loss, self.unit)
        return chosen_NK, weights_NK, counts_E

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _count(self, counts_E: Tensor) -> None:
        # An evaluation is no part of a step, and backward may compute a forward a second time.
        if torch.is_grad_enabled() and torch._C._current_graph_task_id() == -1:
            self.load_E += counts_E

    def _loss(self, scores_NE: Tensor, counts_E: Tensor) -> Tensor:
        """This rank's part of the auxiliary loss, 0-d: of several that compute the same rows, each
        has an equal part."""
        shares_NE = scores_NE / scores_NE.sum(1, keepdim=True).clamp(min=_TINY)
        parts_E = counts_E / counts_E.sum().clamp(min=1)
        weight = self.loss_weight * self.num_experts / self.copies
        return weight * torch.dot(parts_E.to(shares_NE.dtype), shares_NE.sum(0))

    @torch.no_grad()
    def rebalance(self, loads_E: Tensor) -> None:
        """Moves the bias, where there is one, by the step's counts over all ranks."""
        if self.bias_rate > 0:
            loads_E = loads_E.double()
            self.e_score_correction_bias += self.bias_rate * (loads_E.mean() - loads_E).sign()


def _one() -> float:
    return 1.0


def _same(counts_E: Tensor) -> Tensor:
    return counts_E


class _Attach(torch.autograd.Function):
    """Lets a loss have its gradient where what carries it has one; no value changes."""

    @staticmethod
    def forward(ctx: "_Attach", carrier: Tensor, loss: Tensor, unit: Callable[[], float]) -> Tensor:
        ctx.unit = unit  # type: ignore[attr-defined]
        return carrier.view_as(carrier)

    @staticmethod
    def backward(ctx: "_Attach", grad: Tensor) -> tuple[Tensor, Tensor, None]:
        return grad, grad.new_full((), ctx.unit()), None  # type: ignore[attr-defined]
