"""Plans are those of transformers' own tables, and refuse what these do not say."""

import pytest
from support.families import described

from keepstep.parallel import ParallelConfig, Style
from keepstep.trainer import ConfigError


def test_styles_are_those_of_the_model_and_of_what_lies_between() -> None:
    found = described("Qwen3ForCausalLM")
    by_style: dict[Style, list[str]] = {}
    for glob, style in found.plan.tensor:
        by_style.setdefault(style, []).append(glob.removeprefix("model.layers.*."))
    assert by_style == {
        Style.column: [f"self_attn.{n}_proj" for n in "qkv"] + ["mlp.gate_proj", "mlp.up_proj"],
        Style.heads: ["self_attn.q_norm", "self_attn.k_norm"],
        Style.row: ["self_attn.o_proj", "mlp.down_proj"],
        Style.gather: ["self_attn", "mlp"],
        Style.vocabulary: ["model.embed_tokens", "lm_head"],
        Style.sequence: ["input_layernorm", "post_attention_layernorm", "model.norm"],
    }
    assert found.plan.has_sequence
    assert found.plan.heads == (4, 2)
    assert found.plan.units == ("model.layers.*",)


def test_flops_are_those_of_keepsteps_own_llama() -> None:
    weights = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64) + 32 * 50
    wanted = 6 * weights + 12 * 2 * 32 * 16
    for changes in ({}, {"tie_word_embeddings": True}):
        assert described("LlamaForCausalLM", **changes).plan.flops_per_token == wanted


@pytest.mark.parametrize("tied", [False, True])
def test_ties_are_those_of_the_configuration(tied: bool) -> None:
    plan = described("LlamaForCausalLM", tie_word_embeddings=tied).plan
    assert plan.tied == ((("lm_head.weight", "model.embed_tokens.weight"),) if tied else ())


def test_a_model_without_a_tensor_plan_says_what_it_lacks() -> None:
    found = described("GPT2LMHeadModel")
    found.check(ParallelConfig(pipeline=2, context=2, shard=2))
    words = (
        r"^parallel.tensor: found 2 for GPT2LMHeadModel, which has no tensor-parallel plan in "
        r"transformers [\d.]+, needed styles for all of its matrices to cut them; "
        r"set parallel.tensor=1 and let parallel.shard have the ranks$"
    )
    with pytest.raises(ConfigError, match=words):
        found.check(ParallelConfig(tensor=2))


def test_a_style_that_keepstep_has_not_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import LlamaConfig

    plan = {**LlamaConfig.base_model_tp_plan, "layers.*.mlp.up_proj": "packed_colwise"}
    monkeypatch.setattr(LlamaConfig, "base_model_tp_plan", plan)
    found = described("LlamaForCausalLM")
    assert found.untensored is not None
    assert found.untensored.startswith("has the style packed_colwise for model.layers.*.mlp.up_pr")
    assert found.plan.tensor == ()


def test_a_matrix_that_no_style_names_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import LlamaConfig

    plan = dict(LlamaConfig.base_model_tp_plan)
    del plan["layers.*.mlp.up_proj"]
    monkeypatch.setattr(LlamaConfig, "base_model_tp_plan", plan)
    found = described("LlamaForCausalLM").untensored
    assert found is not None
    assert found.startswith("has no style for model.layers.0.mlp.up_proj in transformers")
