"""Initial values are transformers' own distributions, or a folder's weights, one name at a time."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from support.families import FAMILIES, LENGTH, described, pair, settings
from transformers import LlamaPreTrainedModel

from keepstep.parallel import Normal, initialise
from keepstep.trainer import ConfigError
from keepstep.trainer.config import HuggingFaceConfig
from keepstep.trainer.models.huggingface import Described, describe, read_architecture
from keepstep.trainer.models.huggingface.initial import ZeroRow


@pytest.mark.parametrize("family", FAMILIES)
def test_each_parameter_is_spread_as_transformers_spreads_it(family: str) -> None:
    found = described(family, vocabulary_size=400, initializer_range=0.3)
    assert found.plan.initial
    module = found.build()
    initialise(module, found.plan, seed=1)
    torch.manual_seed(0)
    theirs = getattr(transformers, family)(found.architecture.config)
    wanted = dict(theirs.named_parameters())
    for name, parameter in module.named_parameters():
        other = wanted[name].detach()
        if other.std() == 0:
            assert torch.equal(parameter, other), name
        else:
            assert float(parameter.detach().std() / other.std()) == pytest.approx(1, rel=0.12), name
            assert torch.equal(parameter == 0, other == 0), name


def test_a_row_of_padding_begins_with_zeros() -> None:
    initial = dict(described("GemmaForCausalLM").plan.initial)["model.embed_tokens.weight"]
    assert initial == ZeroRow(Normal(std=0.02), 0)
    drawn = initial.draw((4, 8), torch.Generator().manual_seed(0))
    assert not drawn[0].any()
    assert torch.equal(drawn[1:], Normal(0.02).draw((4, 8), torch.Generator().manual_seed(0))[1:])


def test_what_has_no_name_here_is_left_to_the_constructor(monkeypatch: pytest.MonkeyPatch) -> None:
    def uniform(self: Any, module: Any) -> None:
        if hasattr(module, "weight"):
            torch.nn.init.uniform_(module.weight)

    monkeypatch.setattr(LlamaPreTrainedModel, "_init_weights", uniform)
    assert described("LlamaForCausalLM").plan.initial == ()


def saved(folder: Path, family: str) -> dict[str, torch.Tensor]:
    """A folder as transformers writes it, with weights that are not those of a seed here."""
    _, plain = pair(described(family, initializer_range=0.5))
    plain.save_pretrained(folder)
    return {name: tensor.clone() for name, tensor in plain.state_dict().items()}


def read(folder: Path, **changes: Any) -> Described:
    model = HuggingFaceConfig(name="x", path=str(folder), config=changes)
    return describe(read_architecture(model), sequence_length=LENGTH)


@pytest.mark.parametrize("family", ["LlamaForCausalLM", "GPT2LMHeadModel", "GemmaForCausalLM"])
def test_weights_of_a_folder_are_what_training_begins_with(tmp_path: Path, family: str) -> None:
    wanted = saved(tmp_path, family)
    found = read(tmp_path)
    with torch.device("meta"):
        module = found.build()
    module.to_empty(device="cpu")
    initialise(module, found.plan, seed=9)
    assert module.state_dict().keys() == wanted.keys()
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, wanted[name]), name


def test_weights_of_several_files_and_of_a_bare_body_are_found(tmp_path: Path) -> None:
    wanted = saved(tmp_path, "GPT2LMHeadModel")
    whole = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    bare = {name.removeprefix("transformer."): tensor for name, tensor in whole.items()}
    names = sorted(bare)
    files = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    for file, keys in files.items():
        save_file({key: bare[key] for key in keys}, tmp_path / file)
    index = {key: file for file, keys in files.items() for key in keys}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    module = read(tmp_path).build()
    initialise(module, read(tmp_path).plan, seed=9)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, wanted[name]), name


def test_a_folder_of_other_weights_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, "LlamaForCausalLM")
    with pytest.raises(ConfigError, match=r"found no weight model.layers.2.self_attn.q_proj.weigh"):
        read(tmp_path, num_hidden_layers=3)
    found = read(tmp_path, intermediate_size=65)
    with pytest.raises(ConfigError, match=r"of shape \(64, 32\) in .*, needed \(65, 32\) by the"):
        initialise(found.build(), found.plan, seed=0)


def test_a_folder_without_weights_begins_as_the_architecture_does(tmp_path: Path) -> None:
    family = settings("LlamaForCausalLM")
    config = {"architectures": [family.architecture], "vocab_size": 50, **family.config}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read(tmp_path).plan.initial == described("LlamaForCausalLM").plan.initial
