"""Text from a trained model, for a person to look at. Plain sampling, no key-value cache."""

from collections.abc import Sequence

import torch
from torch import nn


def generate(
    module: nn.Module,
    prompt: Sequence[int],
    *,
    count: int,
    max_length: int,
    device: torch.device,
    temperature: float = 0.8,
    seed: int = 0,
    multiple_of: int = 1,
) -> list[int]:
    """Collective: every rank calls it with the same arguments and gets the same `count` token ids.

    The context is the last `max_length` tokens, filled up behind to a length that is a multiple of
    `multiple_of`, as layouts need that cut sequences; a causal model does not see the filling.
    """
    generator = torch.Generator().manual_seed(seed)
    tokens = list(prompt)
    module.eval()
    with torch.no_grad():
        for _ in range(count):
            context = tokens[-max_length:]
            filling = [0] * (-len(context) % multiple_of)
            output = module(torch.tensor([[*context, *filling]], device=device))
            logits = output[0, len(context) - 1].float().cpu()
            weights = torch.softmax(logits / temperature, dim=-1)
            tokens.append(int(torch.multinomial(weights, 1, generator=generator)))
    module.train()
    return tokens[len(prompt) :]
