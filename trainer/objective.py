"""The language-model objective: cross entropy of the next token, summed, never averaged."""

import torch.nn.functional as F
from torch import Tensor, nn

from .recipe import Batch


def next_token_loss(module: nn.Module, batch: Batch) -> Tensor:
    """Sum of the cross entropy in nats over the batch's targets; `tokens` is (B, T + 1), int64."""
    tokens_BT = batch["tokens"]
    logits_BTV = module(tokens_BT[:, :-1])
    return F.cross_entropy(
        logits_BTV.flatten(0, 1).float(), tokens_BT[:, 1:].flatten(), reduction="sum"
    )


def next_token_targets(batch: Batch) -> int:
    """Targets of a batch: every position but the first."""
    return batch["tokens"][:, 1:].numel()
