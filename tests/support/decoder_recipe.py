"""The small decoder as something to train: a recipe for whole jobs on cut models."""

import time

import torch
from support.decoder import LENGTH, VOCABULARY, Decoder, decoder_plan
from torch import Tensor, nn

from keepstep.trainer import Recipe, RunConfig
from keepstep.trainer.recipe import MakeRecipe


def decoder_recipe(sleep_seconds: float = 0.0, *, blocks: int = 4) -> MakeRecipe:
    """The decoder with dropout and a tied head on random tokens; each micro-batch sleeps beside."""

    def recipe(config: RunConfig) -> Recipe:
        generator = torch.Generator().manual_seed(5)
        samples = {"tokens": torch.randint(VOCABULARY, (64, LENGTH + 1), generator=generator)}

        def loss(module: nn.Module, batch: dict[str, Tensor]) -> Tensor:
            time.sleep(sleep_seconds)
            tokens = batch["tokens"]
            summed: Tensor = module(tokens[:, :-1], targets=tokens[:, 1:])
            return summed

        return Recipe(
            model=lambda: Decoder(blocks, dropout=0.25),
            plan=decoder_plan(tied=(("head.weight", "embed.weight"),)),
            loss=loss,
            samples=samples,
            targets=lambda batch: batch["tokens"][:, 1:].numel(),
            tokens_per_sample=LENGTH,
        )

    return recipe
