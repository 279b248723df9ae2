"""The main job: text is prepared once, its vocabulary fits the model, a sample ends the run."""

from pathlib import Path

import numpy as np
import pytest
from support.training import Corpus, refusals, summary, train

from keepstep.data import DataError
from keepstep.data.packing import Chunks
from keepstep.trainer import ConfigError
from keepstep.trainer.config import ModelConfig
from keepstep.trainer.language_model import language_model


def test_a_sample_holds_the_tokens_that_are_trained_and_one_more(corpus: Corpus) -> None:
    recipe = language_model(corpus.config(Path("unused")))
    assert recipe.tokens_per_sample == 16
    assert recipe.eval_samples is not None
    assert isinstance(recipe.samples, Chunks)
    batch = recipe.samples.read(np.arange(3))
    assert batch["tokens"].shape == (3, 17)
    assert recipe.targets(batch) == 48


def test_the_model_takes_the_vocabulary_of_the_text_unless_told(corpus: Corpus) -> None:
    plain = language_model(corpus.config(Path("unused"))).model()
    assert plain.lm_head.weight.shape[0] == 300
    wider = corpus.config(Path("unused"), "model.vocabulary_size=512")
    assert language_model(wider).model().lm_head.weight.shape[0] == 512


def test_a_vocabulary_smaller_than_the_text_s_is_refused(corpus: Corpus) -> None:
    config = corpus.config(Path("unused"), "model.vocabulary_size=299")
    with pytest.raises(ConfigError, match=r"^model.vocabulary_size: found 299, needed 300 or more"):
        language_model(config)


def test_a_model_that_reads_no_text_is_refused(corpus: Corpus) -> None:
    config = corpus.config(Path("unused"))
    config.model = ModelConfig(name="other")
    with pytest.raises(ConfigError, match=r"^model: found ModelConfig, needed a llama or moe"):
        language_model(config)


def test_a_split_too_short_for_a_sample_means_no_evaluation(corpus: Corpus) -> None:
    config = corpus.config(Path("unused"), "data.sequence_length=4000")
    assert language_model(config).eval_samples is None


def test_a_text_too_short_for_a_sample_is_refused_on_every_rank(
    corpus: Corpus, tmp_path: Path
) -> None:
    config = corpus.config(tmp_path / "run", "data.sequence_length=100000")
    for name, words in refusals(config, 2):
        assert name == "DataError"
        assert words.startswith("data.sequence_length: found 100000, needed")


@pytest.mark.parametrize("kind", ["missing", "empty"])
def test_a_path_without_text_is_refused(corpus: Corpus, tmp_path: Path, kind: str) -> None:
    place = tmp_path / kind
    if kind == "empty":
        place.mkdir()
    with pytest.raises(DataError, match=str(place)) as caught:
        language_model(corpus.config(tmp_path / "run", f"data.path={place}"))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_sample_of_text_ends_the_run_the_same_on_any_number_of_ranks(
    corpus: Corpus, tmp_path: Path
) -> None:
    texts = []
    for size in (1, 2):
        folder = tmp_path / f"run-{size}"
        overrides = ("train.steps=3", "train.sample_tokens=20", "checkpoint.at_end=false")
        assert train(corpus.config(folder, *overrides), size) == [0] * size
        texts.append(summary(folder)["text"])
    assert texts[0] == texts[1] != ""
    assert summary(tmp_path / "run-1")["unigram_entropy_nats"] == pytest.approx(3.2, abs=0.3)


def test_a_preset_with_experts_is_built_with_its_plan(corpus: Corpus) -> None:
    config = corpus.config(Path("unused"), "model=moe_tiny", "model.num_experts=6")
    recipe = language_model(config)
    assert recipe.plan is not None
    assert recipe.plan.num_experts == 6
    assert recipe.model().layers[1].mlp.experts.up_proj.shape == (6, 128, 128)
