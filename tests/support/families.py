"""Small architectures of transformers, imported and built once before the forks."""

from typing import Any

import torch
import tqdm
import transformers  # takes seconds: here instead of in every rank

from keepstep.parallel import initialise
from keepstep.trainer.config import HuggingFaceConfig
from keepstep.trainer.models.huggingface import Described, HuggingFace, describe, read_architecture

LENGTH = 16
_SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8}
_SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2}
_GPT2 = {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 32}
_CAPS = {"attn_logit_softcapping": None, "final_logit_softcapping": None}

FAMILIES: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": _SIZES,
    "Qwen2ForCausalLM": {k: v for k, v in _SIZES.items() if k != "head_dim"},
    "Qwen3ForCausalLM": _SIZES,
    "MistralForCausalLM": _SIZES,
    "GemmaForCausalLM": _SIZES,
    "Gemma2ForCausalLM": _SIZES | _CAPS,
    "Gemma3ForCausalLM": _SIZES,
    "GPT2LMHeadModel": _GPT2 | {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0},
}


def settings(family: str, **changes: Any) -> HuggingFaceConfig:
    """A family's small configuration with changes."""
    config = {**FAMILIES[family], **changes}
    return HuggingFaceConfig(name="small", architecture=family, config=config)


def words(family: str, **changes: Any) -> list[str]:
    """The same as overrides of the command line."""
    config = {**FAMILIES[family], **changes}
    values = {key: "null" if value is None else str(value) for key, value in config.items()}
    return [
        *("model=huggingface", f"model.architecture={family}"),
        *(f"+model.config.{key}={value.lower()}" for key, value in values.items()),
    ]


def described(family: str, *, vocabulary_size: int = 50, **changes: Any) -> Described:
    """A family with its plan."""
    read = read_architecture(settings(family, **changes), vocabulary_size=vocabulary_size)
    return describe(read, sequence_length=LENGTH)


def pair(found: Described) -> tuple[HuggingFace, Any]:
    """A module with initial values, and transformers' own model with the same weights."""
    module = found.build(chunk_tokens=5)
    initialise(module, found.plan, seed=3)
    return module, twin(found, module)


def twin(found: Described, module: HuggingFace) -> Any:
    """transformers' own model, with its own attention, and a module's weights under their names."""
    kind = getattr(transformers, found.architecture.name)
    config = kind.config_class.from_dict(found.architecture.config.to_dict())
    attention = "eager" if "Gemma2" in kind.__name__ else "sdpa"  # the only ones that each has
    plain = kind._from_config(config, dtype=torch.float32, attn_implementation=attention)
    own, theirs = module.state_dict(), plain.state_dict()
    assert own.keys() == theirs.keys()
    plain.load_state_dict(own)
    return plain


# A progress bar of transformers would start a thread, and where threads run nothing is forked.
tqdm.tqdm.monitor_interval = 0
# What transformers imports with its first model, and torch with the first FSDP module.
described("LlamaForCausalLM").build()
