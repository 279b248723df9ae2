"""The main job: a language model on text. Prepares the text once, and says how well it reads."""

import sys
from typing import Any

from torch import nn

from ..data import Corpus, open_corpus
from ..parallel import sequence_multiple
from .config import RunConfig
from .generate import generate
from .identity import TOKENIZER_FILE, run_folder
from .models.choose import choose
from .objective import next_token_loss, next_token_targets
from .recipe import Recipe
from .telemetry.files import write_atomically

_PROMPT = "\n"


def language_model(config: RunConfig) -> Recipe:
    """The recipe of `keepstep train`. May prepare the text first, which takes a while; all ranks
    call it, and one does the work.

    Raises:
        ConfigError: the model is none that reads text, or its vocabulary does not fit the data's.
        DataError: the data cannot be used.
    """
    corpus = open_corpus(config.data, report=_say)
    _keep_tokenizer(config, corpus)
    build, plan = choose(config, vocabulary_size=corpus.vocabulary_size)
    return Recipe(
        model=build,
        plan=plan,
        loss=next_token_loss,
        targets=next_token_targets,
        tokens_per_sample=config.data.sequence_length,
        samples=corpus.train,
        eval_samples=corpus.held_out,
        finish=lambda module: _finish(module, config, corpus),
        skips=corpus.skips,
        close=corpus.close,
    )


def _keep_tokenizer(config: RunConfig, corpus: Corpus) -> None:
    """A run's folder has its tokenizer, so that the model can be used without the data."""
    path = run_folder(config) / TOKENIZER_FILE
    if corpus.tokenizer is not None and path.parent.is_dir() and not path.exists():
        write_atomically(path, corpus.tokenizer.to_json())


def _finish(module: nn.Module, config: RunConfig, corpus: Corpus) -> dict[str, Any]:
    """Collective: a sample of text, beside the entropy that a model of single tokens would have."""
    facts: dict[str, Any] = {"unigram_entropy_nats": corpus.unigram_entropy_nats}
    tokenizer = corpus.tokenizer
    if config.train.sample_tokens and tokenizer is not None:
        prompt = [tokenizer.end_token, *tokenizer.encode(_PROMPT)]
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
