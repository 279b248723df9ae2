"""The configured language model: how it is built, and its plan."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from ...parallel import Plan
from ..config import HuggingFaceConfig, LlamaConfig, MoEConfig, RunConfig
from ..errors import ConfigError
from .llama import Llama, llama_plan
from .moe import moe, moe_plan

Model = tuple[Callable[[], nn.Module], Plan]


def choose(config: RunConfig, *, vocabulary_size: int) -> Model:
    """Returns what builds the model, and the plan.

    Args:
        vocabulary_size: tokens that the data has: the model's, where it names no number itself.

    Raises:
        ConfigError: the model is none that reads text, its vocabulary is smaller than the data's,
            or it lacks what the degrees ask for.
    """
    if isinstance(config.model, HuggingFaceConfig):
        return _hugging_face(config, config.model, vocabulary_size)
    if isinstance(config.model, LlamaConfig):
        return _own(config, config.model, vocabulary_size)
    raise ConfigError(
        f"model: found {type(config.model).__name__}, needed a llama or moe preset, or "
        "huggingface; set model=llama_tiny"
    )


def _own(config: RunConfig, model: LlamaConfig, vocabulary_size: int) -> Model:
    length, size = config.data.sequence_length, model.vocabulary_size or vocabulary_size
    _check_vocabulary(size, vocabulary_size, "model.vocabulary_size")
    sizes: dict[str, Any] = {
        "vocabulary_size": size,
        "max_length": length,
        "loss_chunk_tokens": config.memory.loss_chunk_tokens,
    }
    lengths = {"vocabulary_size": size, "sequence_length": length}
    if isinstance(model, MoEConfig):
        return partial(moe, model, **sizes), moe_plan(model, **lengths)
    return partial(Llama, model, **sizes), llama_plan(model, **lengths)


def _hugging_face(config: RunConfig, model: HuggingFaceConfig, vocabulary_size: int) -> Model:
    # Imported here: it needs a package that other models do not, and takes seconds.
    from .huggingface import describe, read_architecture

    read = read_architecture(model, vocabulary_size=vocabulary_size)
    _check_vocabulary(read.config.vocab_size, vocabulary_size, "model.config.vocab_size")
    found = describe(read, sequence_length=config.data.sequence_length)
    found.check(config.parallel)
    return partial(found.build, chunk_tokens=config.memory.loss_chunk_tokens), found.plan


def _check_vocabulary(found: int, needed: int, key: str) -> None:
    if found < needed:
        raise ConfigError(
            f"{key}: found {found}, needed {needed} or more, the tokens of the data; leave it out "
            "to take the data's"
        )
