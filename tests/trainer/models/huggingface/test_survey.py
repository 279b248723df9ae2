"""What keepstep would compute otherwise is refused by name; what it may cut is found by itself."""

from typing import Any

import pytest
from support.families import FAMILIES, LENGTH, described
from torch import nn

from keepstep.trainer import ConfigError
from keepstep.trainer.config import HuggingFaceConfig
from keepstep.trainer.models.huggingface import describe, read_architecture


@pytest.mark.parametrize(
    ("family", "changes", "words"),
    [
        (
            "Gemma2ForCausalLM",
            {"attn_logit_softcapping": 50.0},
            "model.config: found softcap 50.0 in the attention of Gemma2Attention, needed none",
        ),
        (
            "Gemma2ForCausalLM",
            {"final_logit_softcapping": 30.0},
            "model.architecture: found Gemma2ForCausalLM, which changes its logits",
        ),
        (
            "MistralForCausalLM",
            {"sliding_window": 15},
            "model.config.sliding_window: found 15 for sequences of 16 tokens, needed windows that",
        ),
        (
            "LlamaForCausalLM",
            {"attention_dropout": 0.1},
            "model.config: found dropout 0.1 in the attention of LlamaAttention, needed none",
        ),
        (
            "LlamaForCausalLM",
            {"pad_token_id": 1000},
            "model.architecture: found LlamaForCausalLM, which cannot be built and called as",
        ),
        (
            "LlamaForCausalLM",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            "model.config.rope_parameters: found rope_type dynamic, whose frequencies follow",
        ),
    ],
)
def test_what_attention_or_the_head_cannot_do_is_refused(
    family: str, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        described(family, **changes)
    assert str(caught.value).startswith(words)
    assert "; " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_window_that_sees_every_sequence_whole_is_none() -> None:
    assert described("MistralForCausalLM", sliding_window=LENGTH).survey.heads == (4, 2)


@pytest.mark.parametrize("family", ["MambaForCausalLM", "BloomForCausalLM"])
def test_models_whose_attention_cannot_be_replaced_are_refused(family: str) -> None:
    config = {"hidden_size": 32, "num_hidden_layers": 2}
    read = read_architecture(HuggingFaceConfig(name="x", architecture=family, config=config))
    with pytest.raises(ConfigError, match=r"^model.architecture: found 0 attentions in the 2 blo"):
        describe(read, sequence_length=LENGTH)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_trunk_is_found(family: str) -> None:
    survey = described(family).survey
    if family == "GPT2LMHeadModel":
        assert survey.first == ("transformer.wte", "transformer.wpe", "transformer.drop")
        assert survey.last == ("transformer.ln_f", "lm_head")
        assert survey.names.table == "transformer.wpe"
    else:
        assert survey.first == ("model.embed_tokens",)
        assert survey.last == ("model.norm", "lm_head")
        assert survey.names.table is None
    assert survey.uncut is None
    assert survey.attention_width == 2 * 32


def test_a_trunk_that_adds_something_between_its_modules_cannot_be_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As Granite does, whose embedding is scaled after it was looked up."""
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    assert described("LlamaForCausalLM").uncut is None
    monkeypatch.setattr(
        LlamaDecoderLayer, "__call__", lambda self, x, **o: nn.Module.__call__(self, x * 1, **o)
    )
    found = described("LlamaForCausalLM")
    assert found.uncut == "gives model.layers.0 more than what the module before it gives"
    assert found.plan.cut is None
