"""The main job: a language model on text. Prepares the text once, and says how well it reads."""

import sys
from pathlib import Path
from typing import Any

from torch import nn

from ..data import PreparedInfo, Tokenizer, TokenShards, open_prepared, prepare
from ..parallel import sequence_multiple
from .config import RunConfig
from .generate import generate
from .models.choose import choose
from .objective import next_token_loss, next_token_targets
from .recipe import Recipe

_PROMPT = "\n"


def language_model(config: RunConfig) -> Recipe:
    """The recipe of `keepstep train`. May prepare the text first, which takes a while; all ranks
    call it, and one does the work.

    Raises:
        ConfigError: the model is none that reads text, or its vocabulary does not fit the data's.
        DataError: the text cannot be used.
    """
    info = open_prepared(prepare(config.data, report=_say))
    build, plan = choose(config, vocabulary_size=info.vocabulary_size)
    length = config.data.sequence_length
    return Recipe(
        model=build,
        plan=plan,
        loss=next_token_loss,
        targets=next_token_targets,
        tokens_per_sample=length,
        samples=TokenShards.open(info.folder, split="train", sequence_length=length),
        eval_samples=_held_out(info, length),
        finish=lambda module: _finish(module, config, info),
    )


def _held_out(info: PreparedInfo, length: int) -> TokenShards | None:
    """The held-out split, unless it is too short for a single sample."""
    if info.tokens.get("eval", 0) < length + 1:
        return None
    return TokenShards.open(info.folder, split="eval", sequence_length=length)


def _finish(module: nn.Module, config: RunConfig, info: PreparedInfo) -> dict[str, Any]:
    """Collective: a sample of text, beside the entropy that a model of single tokens would have."""
    facts: dict[str, Any] = {"unigram_entropy_nats": info.unigram_entropy_nats}
    if config.train.sample_tokens:
        tokenizer = Tokenizer.load(Path(info.tokenizer_path))
        prompt = [info.end_token, *tokenizer.encode(_PROMPT)]
        # Where it computes, which buffers know: parameters may wait in the host's memory.
        device = next(module.buffers()).device
        ids = generate(
            module,
            prompt,
            count=config.train.sample_tokens,
            max_length=config.data.sequence_length,
            device=device,
            seed=config.train.seed,
            multiple_of=sequence_multiple(config.parallel),
        )
        facts["text"] = tokenizer.decode(ids)
    return facts


def _say(words: str) -> None:
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()
