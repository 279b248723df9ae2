"""The language-model objective: cross entropy of the next token, summed, never averaged."""

from torch import Tensor, nn

from .recipe import Batch

IGNORED = -100
_SAID = {"positions": "positions_BT", "documents": "documents_BT"}


def next_token_loss(module: nn.Module, batch: Batch) -> Tensor:
    """Sum of the cross entropy in nats over the batch's targets; `tokens` is (B, T + 1), of any
    type of whole numbers.

    Packed samples say more, all (B, T): `documents` and `positions` keep documents apart, and
    `targets` are -100 where the next token is another document's. The module computes the loss
    itself where it is given targets, so that its logits need never exist as a whole, nor in one
    place.
    """
    tokens_BT = batch["tokens"].long()
    said = {keyword: batch[name] for name, keyword in _SAID.items() if name in batch}
    loss: Tensor = module(
        tokens_BT[:, :-1], targets_BT=batch.get("targets", tokens_BT[:, 1:]), **said
    )
    return loss


def next_token_targets(batch: Batch) -> int:
    """Valid targets of a batch: every position but the first, or those that are not -100."""
    if "targets" in batch:
        return int((batch["targets"] != IGNORED).sum())
    return batch["tokens"][:, 1:].numel()
