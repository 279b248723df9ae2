"""An architecture is read from the settings or a folder, and whatever is wrong with it is said."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.families import settings

from keepstep.trainer import ConfigError
from keepstep.trainer.config import HuggingFaceConfig
from keepstep.trainer.models.huggingface import read_architecture


def folder(path: Path, **keys: Any) -> Path:
    (path / "config.json").write_text(
        json.dumps({"architectures": ["LlamaForCausalLM"], "hidden_size": 24, **keys})
    )
    return path


def test_the_vocabulary_is_the_data_s_unless_the_settings_say() -> None:
    family = "LlamaForCausalLM"
    assert read_architecture(settings(family), vocabulary_size=77).config.vocab_size == 77
    own = settings(family, vocab_size=99)
    assert read_architecture(own, vocabulary_size=77).config.vocab_size == 99


def test_a_folder_says_what_it_holds_and_the_settings_outrank_it(tmp_path: Path) -> None:
    where = folder(tmp_path, vocab_size=88, num_attention_heads=4)
    model = HuggingFaceConfig(name="x", path=str(where), config={"num_hidden_layers": 3})
    read = read_architecture(model, vocabulary_size=77)
    assert read.name == "LlamaForCausalLM"
    sizes = [getattr(read.config, key) for key in ("hidden_size", "vocab_size")]
    assert [*sizes, read.config.num_hidden_layers] == [24, 88, 3]
    alone = HuggingFaceConfig(name="x", path=str(where / "config.json"))
    assert read_architecture(alone).config.hidden_size == 24


def test_code_in_a_folder_is_never_run(tmp_path: Path) -> None:
    where = folder(tmp_path, auto_map={"AutoModelForCausalLM": "evil.Evil"}, num_attention_heads=4)
    (tmp_path / "evil.py").write_text("raise SystemExit(9)\n")
    built = read_architecture(HuggingFaceConfig(name="x", path=str(where)))
    assert built.name == "LlamaForCausalLM"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": "BertModel"}, "model.architecture: found BertModel, needed a causal"),
        ({"config": {"hiden_size": 3}}, "model.config.hiden_size: found no such key in LlamaConf"),
        ({"config": {"hidden_size": "x"}}, "model.config: found values that LlamaConfig refuses"),
        ({"path": "/no/where"}, "model.path=/no/where: found no readable where"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], words: str) -> None:
    model = HuggingFaceConfig(**{"name": "x", "architecture": "LlamaForCausalLM", **changes})
    with pytest.raises(ConfigError) as caught:
        read_architecture(model)
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)


def test_neither_architecture_nor_path_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^model.architecture: found none, needed a causal"):
        read_architecture(HuggingFaceConfig(name="x"))
