"""Settings -> a class of transformers and its configuration. Reads local files only, runs no code
of theirs, and asks no server."""

import json
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...config import HuggingFaceConfig
from ...errors import ConfigError
from .attention import ATTENTION, attend, give_attends

try:
    import transformers
    from transformers.models.auto import modeling_auto
except ModuleNotFoundError as error:
    raise ConfigError(
        f"model=huggingface: found no package {error.name}, needed transformers; install "
        "keepstep[huggingface]"
    ) from error


@dataclass(frozen=True, slots=True)
class Architecture:
    """A class of transformers and what it is built from."""

    name: str
    """Name of the class, such as LlamaForCausalLM."""
    config: Any
    """Its transformers.PreTrainedConfig."""
    folder: Path | None = None
    """Where the configuration was read, and where weights may lie."""

    def build(self) -> Any:
        """A new transformers.PreTrainedModel in fp32 whose attention is keepstep's `Attend`."""
        transformers.AttentionInterface.register(ATTENTION, attend)
        made = getattr(transformers, self.name)._from_config(
            deepcopy(self.config), dtype=torch.float32, attn_implementation=ATTENTION
        )
        assert isinstance(made, nn.Module)
        give_attends(made)
        return made

    def embedding_names(self) -> list[str]:
        """Names under which the model may have the weights of its input embedding."""
        with torch.device("meta"):
            model = self.build()
        embedding = model.get_input_embeddings()
        return [f"{name}.weight" for name, one in model.named_modules() if one is embedding]

    def to_json(self) -> dict[str, Any]:
        """What its config.json says."""
        found: dict[str, Any] = json.loads(self.config.to_json_string(use_diff=False))
        return {**found, "architectures": [self.name]}


def read_architecture(model: HuggingFaceConfig, *, vocabulary_size: int = 0) -> Architecture:
    """The architecture that a run names, by class or by a folder that holds config.json.

    Args:
        vocabulary_size: tokens where the settings do not say how many; 0 takes the class's default.

    Raises:
        ConfigError: no such class or file, or a key that the class's configuration has not.
    """
    read = {} if model.path is None else _read_json(Path(model.path))
    name = str(model.architecture or next(iter(read.get("architectures") or ()), "none"))
    known = sorted(set(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()))
    if name not in known or not hasattr(transformers, name):
        raise ConfigError(
            f"model.architecture: found {name}, needed a causal language model of transformers "
            f"{transformers.__version__}, such as LlamaForCausalLM; set model.architecture, or "
            "model.path to a folder whose config.json says it"
        )
    kind = getattr(transformers, name).config_class
    own = {str(key): value for key, value in model.config.items()}
    blank = kind()
    for key in own:
        if not hasattr(blank, key):
            raise ConfigError(
                f"model.config.{key}: found no such key in {kind.__name__}, needed one that it "
                f"has, such as {', '.join(list(blank.to_dict())[:4])}; correct the key"
            )
    sizes = {} if "vocab_size" in own or not vocabulary_size else {"vocab_size": vocabulary_size}
    try:
        config = kind.from_dict({**_END_TOKENS, **sizes, **read, **own})
    except Exception as error:  # transformers' own classes of errors differ from field to field
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"model.config: found values that {kind.__name__} refuses ({reason}), needed those "
            "of the architecture; correct them"
        ) from error
    return Architecture(name, config, None if model.path is None else Path(model.path))


# Ids of ends that are not in a small vocabulary draw a warning; nothing here uses them.
_END_TOKENS = {"bos_token_id": None, "eos_token_id": None}


def _read_json(folder: Path) -> dict[str, Any]:
    path = folder / "config.json" if folder.is_dir() else folder
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"model.path={folder}: found no readable {path.name} ({error}), needed a folder with "
            "config.json or such a file; correct the path"
        ) from error
    if not isinstance(found, dict):
        raise ConfigError(
            f"model.path={folder}: found a {type(found).__name__} in {path.name}, needed the keys "
            "of a configuration; correct the file"
        )
    return found
