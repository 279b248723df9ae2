"""What of transformers a configured model is; what has nothing there is refused."""

import pytest

from keepstep.trainer import ConfigError
from keepstep.trainer.compose import compose
from keepstep.trainer.models.counterpart import counterpart

EMBEDDING = {"model.embed_tokens.weight": (77, 128)}


def test_a_llama_says_the_base_of_its_positions_to_old_and_new_readers() -> None:
    found = counterpart(compose(["model.rope_theta=5e5"]), EMBEDDING, end_token=3).config
    assert (found["rope_theta"], found["rope_parameters"]["rope_theta"]) == (5e5, 5e5)
    assert (found["vocab_size"], found["eos_token_id"]) == (77, 3)


@pytest.mark.parametrize("model", ["moe_tiny", "vit_digits"])
def test_a_model_without_a_counterpart_is_refused(model: str) -> None:
    with pytest.raises(ConfigError, match=f"^model={model}: found .*, needed a Llama or a model"):
        counterpart(compose([f"model={model}"]), EMBEDDING, end_token=None)


def test_a_checkpoint_without_the_models_embedding_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"found no model\.embed_tokens\.weight"):
        counterpart(compose(), {"model.other": (2, 2)}, end_token=None)
