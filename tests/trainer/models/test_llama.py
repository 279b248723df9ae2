"""The Llama: causal, grouped, named as Hugging Face names it, counted as it is built."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from keepstep.parallel import initialise
from keepstep.trainer.config import LlamaConfig
from keepstep.trainer.models.llama import Llama, Rotary, flops_per_token, llama_plan

VOCABULARY, LENGTH = 19, 12


def config(**changes: Any) -> LlamaConfig:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_layers": 2, "num_heads": 4}
    return LlamaConfig(
        **{"name": "x", "num_kv_heads": 2, "initializer_range": 0.3, **sizes, **changes}
    )


def model(**changes: Any) -> Llama:
    made = config(**changes)
    module = Llama(made, vocabulary_size=VOCABULARY, max_length=LENGTH)
    plan = llama_plan(made, vocabulary_size=VOCABULARY, sequence_length=LENGTH)
    initialise(module, plan, seed=1)
    return module


def tokens(rows: int = 2, length: int = LENGTH) -> Tensor:
    return torch.arange(rows * length).view(rows, length) * 5 % VOCABULARY


@settings(max_examples=20, deadline=None)
@given(st.integers(0, LENGTH - 1), st.integers(1, VOCABULARY - 1))
def test_a_token_changes_no_logits_before_it_and_some_from_it_on(place: int, by: int) -> None:
    module, before = model(), tokens()
    after = before.clone()
    after[:, place] = (after[:, place] + by) % VOCABULARY
    with torch.no_grad():
        changed = (module(before) - module(after)).abs().amax(-1)
    assert not changed[:, :place].any()
    assert (changed[:, place:] > 1e-7).all()


def test_rows_of_a_batch_do_not_see_one_another() -> None:
    module, batch = model(), tokens(3)
    with torch.no_grad():
        whole, alone = module(batch), module(batch[1:2])
    torch.testing.assert_close(whole[1:2], alone)
    assert whole.shape == (3, LENGTH, VOCABULARY)


def test_a_shorter_sequence_has_the_logits_of_the_beginning() -> None:
    module, batch = model(), tokens()
    with torch.no_grad():
        torch.testing.assert_close(module(batch[:, :5]), module(batch)[:, :5])


def test_the_order_of_earlier_tokens_matters() -> None:
    module = model()
    with torch.no_grad():
        ends = [module(torch.tensor([row]))[0, -1] for row in ([1, 2, 3, 4], [2, 1, 3, 4])]
    assert not torch.allclose(*ends)


def test_parameters_are_named_and_shaped_as_hugging_face_does() -> None:
    shapes = {name: tuple(p.shape) for name, p in model().named_parameters()}
    layer = {
        "input_layernorm.weight": (16,),
        "self_attn.q_proj.weight": (16, 16),
        "self_attn.k_proj.weight": (8, 16),
        "self_attn.v_proj.weight": (8, 16),
        "self_attn.o_proj.weight": (16, 16),
        "post_attention_layernorm.weight": (16,),
        "mlp.gate_proj.weight": (24, 16),
        "mlp.up_proj.weight": (24, 16),
        "mlp.down_proj.weight": (16, 24),
    }
    ends = {"embed_tokens.weight": (19, 16), "norm.weight": (16,), "lm_head.weight": (19, 16)}
    blocks = {f"layers.{i}.{name}": shape for i in range(2) for name, shape in layer.items()}
    assert shapes == ends | blocks


def test_tied_embeddings_are_one_parameter() -> None:
    module = model(tie_embeddings=True)
    assert module.lm_head.weight is module.embed_tokens.weight
    assert "lm_head.weight" not in dict(module.named_parameters())


def test_grouped_attention_equals_full_attention_with_repeated_heads() -> None:
    grouped, full = model(), model(num_kv_heads=4)
    state = grouped.state_dict()
    for name, weight in state.items():
        if "k_proj" in name or "v_proj" in name:
            heads = weight.view(2, 4, 16).repeat_interleave(2, dim=0)
            state[name] = heads.reshape(16, 16)
    full.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(grouped(tokens()), full(tokens()))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_flops_are_six_a_matrix_weight_and_those_of_attention(kv_heads: int, tied: bool) -> None:
    module = model(num_kv_heads=kv_heads, tie_embeddings=tied)
    linears = [m for m in module.modules() if isinstance(m, nn.Linear)]
    weights = sum(linear.weight.numel() for linear in linears)
    found = flops_per_token(config(num_kv_heads=kv_heads), VOCABULARY, LENGTH)
    assert found == 6 * weights + 12 * 2 * 16 * LENGTH


# Rotary positions


def test_a_rotation_keeps_lengths_and_the_first_position() -> None:
    x = torch.randn(1, 2, LENGTH, 8, generator=torch.Generator().manual_seed(0))
    turned = Rotary(8, LENGTH, 100.0)(x)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(turned[:, :, 0], x[:, :, 0])


def test_products_of_rotated_vectors_depend_on_their_distance_alone() -> None:
    rotary = Rotary(8, LENGTH, 100.0)
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(8, generator=generator).expand(1, 1, LENGTH, 8) for _ in range(2))
    products = (rotary(q) @ rotary(k).transpose(-1, -2))[0, 0]
    for distance in range(LENGTH):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-4, rtol=1e-4)


def test_the_tables_come_back_after_the_module_was_emptied() -> None:
    wanted = Rotary(8, LENGTH, 100.0)
    with torch.device("meta"):
        module = Rotary(8, LENGTH, 100.0)
    module.to_empty(device="cpu")
    module.cos_TF.fill_(torch.nan)
    module.rebuild_buffers()
    assert torch.equal(module.cos_TF, wanted.cos_TF)
    assert torch.equal(module.sin_TF, wanted.sin_TF)
    assert wanted.state_dict() == {}


def test_output_projections_start_smaller_by_the_depth() -> None:
    module = model(hidden_size=64, num_layers=8)
    deep = module.layers[3].self_attn.o_proj.weight.detach().std()
    wide = module.layers[3].self_attn.q_proj.weight.detach().std()
    assert float(wide) == pytest.approx(0.3, rel=0.1)
    assert float(deep / wide) == pytest.approx(0.25, rel=0.1)
    assert module.norm.weight.tolist() == [1.0] * 64
