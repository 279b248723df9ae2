"""The language-model objective: cross entropy of the next token, summed, never averaged."""

from torch import Tensor, nn

from .recipe import Batch


def next_token_loss(module: nn.Module, batch: Batch) -> Tensor:
    """Sum of the cross entropy in nats over the batch's targets; `tokens` is (B, T + 1), int64.

    The module computes it itself where it is given targets, so that its logits need never exist
    as a whole, nor in one place.
    """
    tokens_BT = batch["tokens"]
    loss: Tensor = module(tokens_BT[:, :-1], targets_BT=tokens_BT[:, 1:])
    return loss


def next_token_targets(batch: Batch) -> int:
    """Targets of a batch: every position but the first."""
    return batch["tokens"][:, 1:].numel()
