"""What of transformers computes the same as a configured model: its class, its configuration, and
the names that its weights have there."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..config import HuggingFaceConfig, LlamaConfig, MoEConfig, RunConfig
from ..errors import ConfigError

Shapes = Mapping[str, tuple[int, ...]]
Rules = tuple[tuple[str, str], ...]

_PREFIX = "model."
# A Llama's own names are those of LlamaForCausalLM without its first part, which the state adds.
_LLAMA: Rules = (("model.lm_head.*", "lm_head.*"), ("model.*", "model.*"), ("*", ""))
_SAME: Rules = (("model.*", "*"), ("*", ""))
INWARD: dict[str, Rules] = {
    "llama": (("lm_head.*", "model.lm_head.*"), ("model.*", "model.*")),
    "huggingface": (("*", "model.*"),),
}
"""Names of transformers -> names of the state, by the kind of model that is to have them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Counterpart:
    """A class of transformers. `rules` lead from names of the state to its own, an empty one leaves
    a tensor out; `config` is what its config.json says."""

    rules: Rules
    config: dict[str, Any]


def counterpart(config: RunConfig, shapes: Shapes, *, end_token: int | None) -> Counterpart:
    """The counterpart of a run's model.

    Args:
        shapes: of the state's tensors by name; they say how large the vocabulary is.
        end_token: id that ends a text, where it is known.

    Raises:
        ConfigError: transformers has nothing that computes the same.
    """
    model = config.model
    if isinstance(model, HuggingFaceConfig):
        return _own_class(model, shapes)
    if isinstance(model, LlamaConfig) and not isinstance(model, MoEConfig):
        return Counterpart(rules=_LLAMA, config=_llama(config, model, shapes, end_token))
    raise ConfigError(
        f"model={model.name}: found {type(model).__name__}, needed a Llama or a model of "
        "transformers, which has a class there; export it as dcp"
    )


def _llama(
    config: RunConfig, model: LlamaConfig, shapes: Shapes, end_token: int | None
) -> dict[str, Any]:
    """Of transformers' LlamaForCausalLM. Readers older than transformers 5 take `rope_theta`."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": end_token,
        "eos_token_id": end_token,
        "head_dim": model.hidden_size // model.num_heads,
        "hidden_act": "silu",
        "hidden_size": model.hidden_size,
        "initializer_range": model.initializer_range,
        "intermediate_size": model.intermediate_size,
        "max_position_embeddings": config.data.sequence_length,
        "mlp_bias": False,
        "num_attention_heads": model.num_heads,
        "num_hidden_layers": model.num_layers,
        "num_key_value_heads": model.num_kv_heads,
        "rms_norm_eps": model.norm_eps,
        "rope_parameters": {"rope_theta": model.rope_theta, "rope_type": "default"},
        "rope_theta": model.rope_theta,
        "tie_word_embeddings": model.tie_embeddings,
        "use_cache": True,
        "vocab_size": _rows(shapes, "model.embed_tokens.weight"),
    }


def _own_class(model: HuggingFaceConfig, shapes: Shapes) -> Counterpart:
    # Imported here: it needs a package that other models do not, and takes seconds.
    from .huggingface import read_architecture

    architecture = read_architecture(model)
    names = architecture.embedding_names()
    found = read_architecture(model, vocabulary_size=_rows(shapes, *(_PREFIX + n for n in names)))
    return Counterpart(rules=_SAME, config=found.to_json())


def _rows(shapes: Shapes, *names: str) -> int:
    """The vocabulary: rows of the embedding."""
    found = next((shapes[name] for name in names if name in shapes), None)
    if not found:
        raise ConfigError(
            f"The checkpoint: found no {' or '.join(names)}, needed the embedding of the run's "
            "model; name a checkpoint of this run"
        )
    return found[0]
