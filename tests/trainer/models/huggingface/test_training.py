"""Training on every layout has the loss curve of transformers' own model in a loop by hand."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.families import described, twin, words
from support.training import Corpus, differs, losses, refusals, summary, train
from support.world import run_world

from keepstep.data import Loader, Order, fit_recipe
from keepstep.parallel import initialise
from keepstep.trainer import ConfigError, RunConfig
from keepstep.trainer.language_model import language_model
from keepstep.trainer.schedule import scale

STEPS = 10
PACKAGE = "keepstep.trainer.models.huggingface"
LAYOUTS = {
    "one rank": (1, ()),
    "shard": (2, ("parallel.shard=2",)),
    "tensor": (2, ("parallel.tensor=2",)),
    "pipeline": (2, ("parallel.pipeline=2",)),
    "context": (2, ("parallel.context=2",)),
}
OTHERS = {
    "Qwen2ForCausalLM": ("tensor",),
    "Qwen3ForCausalLM": ("tensor",),
    "MistralForCausalLM": ("pipeline",),
    "GemmaForCausalLM": ("tensor",),
    "Gemma3ForCausalLM": ("tensor", "pipeline"),
    "GPT2LMHeadModel": ("pipeline", "context"),
}


def by_hand(config: RunConfig) -> list[float]:
    """The losses of transformers' forward and loss, torch's AdamW and clipping, on one process."""
    recipe = language_model(config)
    module = recipe.model()
    assert recipe.plan is not None
    initialise(module, recipe.plan, seed=config.train.seed)
    plain = twin(described("LlamaForCausalLM", vocabulary_size=300), module).train()
    parameters = list(plain.parameters())
    decay = config.optim.weight_decay
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": decay},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ],
        betas=(config.optim.beta1, config.optim.beta2),
        eps=config.optim.eps,
    )
    data = config.data
    order = fit_recipe(
        recipe.samples, seed=data.seed, block=data.block, lanes=data.lanes, window=data.window
    )
    loader = Loader(
        *(recipe.samples, Order(order)),
        batch_samples=config.train.batch_samples,
        microbatch_samples=config.train.microbatch_samples,
        reader_index=0,
        reader_count=1,
        prefetch=1,
    )
    found = []
    with loader.open(0) as windows:
        for step in range(config.train.steps):
            tokens = torch.cat([batch["tokens"] for batch in next(windows).batches]).long()
            loss = plain(input_ids=tokens, labels=tokens).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, config.optim.clip_norm)
            for group in optimizer.param_groups:
                rate = scale(config.schedule, step=step, steps=config.train.steps)
                group["lr"] = config.optim.lr * rate
            optimizer.step()
            found.append(loss.item())
    loader.close()
    return found


@pytest.fixture(scope="module")
def hand_losses(corpus: Corpus) -> list[float]:
    config = corpus.config(Path("unused"), *words("LlamaForCausalLM"), f"train.steps={STEPS}")
    found: list[float] = run_world(1, lambda _: by_hand(config), join=False)[0]
    assert len(found) == STEPS
    assert found[-1] < found[0] - 1
    return found


@pytest.mark.slow(but=["shard"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_llama_has_the_curve_of_transformers_own_training(
    corpus: Corpus, tmp_path: Path, hand_losses: list[float], layout: str
) -> None:
    size, degrees = LAYOUTS[layout]
    asked = (*words("LlamaForCausalLM"), f"train.steps={STEPS}", "checkpoint.at_end=false")
    assert train(corpus.config(tmp_path / "run", *asked, *degrees), size) == [0] * size
    assert differs(losses(tmp_path / "run"), hand_losses) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("family", OTHERS)
def test_a_family_has_the_same_curve_on_every_layout(
    corpus: Corpus, tmp_path: Path, family: str
) -> None:
    asked = (*words(family), "train.steps=3", "checkpoint.at_end=false", "train.eval_samples=4")
    assert train(corpus.config(tmp_path / "one", *asked)) == [0]
    wanted = summary(tmp_path / "one")
    for layout in OTHERS[family]:
        size, degrees = LAYOUTS[layout]
        config = corpus.config(tmp_path / layout, *asked, *degrees)
        assert train(config, size) == [0] * size
        assert differs(losses(tmp_path / layout), losses(tmp_path / "one")) < 1e-6
        found = summary(tmp_path / layout)
        assert found["eval_loss"] == pytest.approx(wanted["eval_loss"], rel=1e-6)
        assert found["parameters"] == wanted["parameters"]


@pytest.mark.slow
def test_sequence_parallel_stages_generate_what_one_rank_does(
    corpus: Corpus, tmp_path: Path
) -> None:
    asked = (*words("LlamaForCausalLM"), "train.steps=1", "train.sample_tokens=6")
    texts = []
    for size, degrees in ((1, ()), (4, ("parallel.pipeline=2", "parallel.tensor=2"))):
        folder = tmp_path / str(size)
        config = corpus.config(folder, *asked, "checkpoint.at_end=false", *degrees)
        assert train(config, size) == [0] * size
        texts.append(summary(folder)["text"])
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("asked", "beginning"),
    [
        (("GPT2LMHeadModel", "parallel.tensor=2"), "parallel.tensor: found 2 for GPT2LMHeadModel"),
        (("GemmaForCausalLM", "model.config.vocab_size=299"), "model.config.vocab_size: found 299"),
        (
            ("LlamaForCausalLM", "parallel.context=2", "+model.config.attention_dropout=0.1"),
            "model.config: found dropout 0.1 in the attention of LlamaAttention",
        ),
        (("Qwen3ForCausalLM", "parallel.tensor=4"), "parallel.tensor: found 4 for 2 attention"),
    ],
)
def test_a_run_that_cannot_be_is_refused_on_every_rank(
    corpus: Corpus, tmp_path: Path, asked: tuple[str, ...], beginning: str
) -> None:
    family, *others = asked
    config = corpus.config(tmp_path, *words(family, vocab_size=300), *others)
    size = 4 if "parallel.tensor=4" in others else 2
    for name, sentence in refusals(config, size):
        assert name == "ConfigError"
        assert sentence.startswith(beginning)


def test_without_the_package_a_run_says_what_to_install(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    for name in [name for name in sys.modules if name.startswith(PACKAGE)]:
        monkeypatch.delitem(sys.modules, name)
    config = corpus.config(Path("unused"), *words("LlamaForCausalLM"))
    sentence = r"^model=huggingface: found no package transformers, needed .*; install keepstep\[h"
    with pytest.raises(ConfigError, match=sentence):
        language_model(config)


@pytest.mark.slow
def test_nothing_else_imports_the_package() -> None:
    seen = (
        "import sys, keepstep.trainer.commands, keepstep.trainer.language_model as main\n"
        "from keepstep.trainer.models import llama, vit\n"
        "print([name for name in ('transformers', 'sklearn') if name in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", seen], capture_output=True, text=True, check=True, timeout=240
    )
    assert found.stdout.strip() == "[]"
