"""Every layout has the loss curve, the gradient norms and the final weights of one rank."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.training import (
    Corpus,
    copied,
    differs,
    events,
    lines,
    losses,
    refusals,
    state,
    summary,
    train,
)
from torch import Tensor

PIPELINE = ("parallel.pipeline=2",)
# One micro-batch a rank where nothing else asks for more: each costs its collectives.
WHOLE = "train.microbatch_samples=16"
TENSOR = ("parallel.tensor=2", WHOLE)
CONTEXT = ("parallel.context=2", WHOLE)
HALF = "train.microbatch_samples=8"
# A schedule with four stages needs four blocks; what is the product or the other way of rows that
# are shown over twenty steps is shown over six.
FOUR, FEW = "model.num_layers=4", "train.steps=6"
SCHEDULES: dict[str, tuple[str, ...]] = {
    "GPipe": (FEW,),
    "1F1B": (),
    "Interleaved1F1B": (FOUR,),
    "LoopedBFS": (FOUR, FEW),
    "InterleavedZeroBubble": (FOUR, FEW),
    "ZBVZeroBubble": (FOUR,),
    "DualPipeV": (FOUR, FEW),
}
LAYOUTS: dict[str, tuple[int, tuple[str, ...]]] = {
    "replicate2": (2, ("parallel.replicate=2",)),
    "shard2": (2, ()),
    "shard4": (4, (FEW,)),
    "replicate2-shard2": (4, ("parallel.replicate=2",)),
    "tensor2": (2, TENSOR),
    "tensor2 without sequence": (2, (*TENSOR, "parallel.sequence_parallel=false", FEW)),
    "tensor2-shard2": (4, (*TENSOR, HALF, FEW)),
    **{
        f"pipeline2 {name}": (2, (*PIPELINE, f"parallel.schedule={name}", *more))
        for name, more in SCHEDULES.items()
    },
    "pipeline2-shard2": (4, (*PIPELINE, "train.microbatch_samples=2", FEW)),
    "pipeline2-tensor2": (4, (*PIPELINE, *TENSOR, HALF, FEW)),
    "context2": (2, CONTEXT),
    "context2 ulysses": (2, (*CONTEXT, "parallel.context_attention=ulysses", FEW)),
    "context2-shard2": (4, (*CONTEXT, HALF, FEW)),
    "pipeline2-context2": (4, (*PIPELINE, *CONTEXT, HALF, FEW)),
    "tensor2-context2": (4, (*TENSOR, *CONTEXT, FEW)),
    "pipeline2-shard2-tensor2": (8, (*PIPELINE, *TENSOR, "train.microbatch_samples=4", FEW)),
}
MODEL = ("model.num_layers=2", "model.num_kv_heads=2", "train.steps=20")
OneRank = Callable[..., Path]
TIE = ("model.tie_embeddings=true", "model.vocabulary_size=301")


def run(corpus: Corpus, folder: Path, size: int, *overrides: str) -> Path:
    assert train(corpus.config(folder, *MODEL, *overrides), size) == [0] * size
    return folder


def weights(folder: Path) -> dict[str, Tensor]:
    return {n: tensor for n, tensor in state(folder).items() if n.startswith("model.")}


def norms(folder: Path) -> list[float]:
    return [line["grad_norm"] for line in lines(folder, "metrics")]


def assert_same_training(found: Path, wanted: Path) -> None:
    assert differs(losses(found), losses(wanted)) < 1e-5
    assert differs(norms(found), norms(wanted)) < 1e-4
    theirs, ours = weights(wanted), weights(found)
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        assert (ours[name] - weight).abs().max() < 1e-4 * weight.abs().max(), name
    ends: list[dict[str, Any]] = [summary(folder) for folder in (found, wanted)]
    assert ends[0]["eval_loss"] == pytest.approx(ends[1]["eval_loss"], rel=1e-5)
    assert ends[0]["parameters"] == ends[1]["parameters"]


@pytest.fixture(scope="module")
def one_rank(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> OneRank:
    """one_rank(*overrides) -> the run of that model and as many steps on one rank, made once."""
    made: dict[tuple[str, ...], Path] = {}

    def of(*overrides: str) -> Path:
        asked = ("model.", "train.steps=", "train.sample_tokens=")
        words = tuple(sorted(word for word in overrides if word.startswith(asked)))
        if words not in made:
            made[words] = run(corpus, tmp_path_factory.mktemp("one") / "run", 1, *words)
        return made[words]

    return of


@pytest.mark.slow(but=["shard2", "tensor2", "pipeline2 1F1B", "pipeline2-shard2", "context2"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_trains_as_one_rank(
    corpus: Corpus, one_rank: OneRank, tmp_path: Path, layout: str
) -> None:
    size, overrides = LAYOUTS[layout]
    assert_same_training(run(corpus, tmp_path / "run", size, *overrides), one_rank(*overrides))


def test_a_pipeline_of_one_batch_order_has_the_bits_of_one_rank(
    corpus: Corpus, one_rank: OneRank, tmp_path: Path
) -> None:
    found = run(corpus, tmp_path / "run", 2, *PIPELINE, FEW)
    assert summary(found)["state_digest"] == summary(one_rank(FEW))["state_digest"]


TIED = {
    "tensor2": (2, TENSOR),
    "pipeline2": (2, PIPELINE),
    "pipeline2 ZBVZeroBubble": (2, (*PIPELINE, "parallel.schedule=ZBVZeroBubble", FOUR)),
    "pipeline2-tensor2": (4, (*PIPELINE, *TENSOR, HALF)),
}


@pytest.mark.slow(but=["pipeline2"])
@pytest.mark.parametrize("layout", TIED)
def test_tied_embeddings_of_an_odd_vocabulary_train_as_on_one_rank(
    corpus: Corpus, one_rank: OneRank, tmp_path: Path, layout: str
) -> None:
    size, overrides = TIED[layout]
    words = (*TIE, *overrides, FEW)
    assert_same_training(run(corpus, tmp_path / "run", size, *words), one_rank(*words))


CHAIN = (
    (2, PIPELINE),
    (4, (*PIPELINE, *TENSOR, HALF)),
    (1, ()),
    (2, (*PIPELINE, "parallel.schedule=DualPipeV")),
    (2, TENSOR),
    (2, CONTEXT),
)


@pytest.mark.slow
def test_a_run_goes_on_from_layout_to_layout(
    corpus: Corpus, one_rank: OneRank, tmp_path: Path
) -> None:
    words = (*TIE, FOUR, "train.steps=12")
    folder = tmp_path / "run"
    for stage, (size, overrides) in enumerate(CHAIN):
        config = corpus.config(folder, *MODEL, *words, *overrides)
        ends = stage == len(CHAIN) - 1
        codes = train(config, size, stop_at=None if ends else 2 * stage + 1)
        assert codes == [0 if ends else 75] * size
    assert [event["step"] for event in events(folder, "restore")] == [2, 4, 6, 8, 10]
    assert differs(losses(folder), losses(one_rank(*words))) < 1e-5


@pytest.mark.slow(but=["context2"])
@pytest.mark.parametrize("layout", ["pipeline2-tensor2", "pipeline2 DualPipeV", "context2"])
def test_a_stopped_run_goes_on_bit_for_bit(corpus: Corpus, tmp_path: Path, layout: str) -> None:
    size, overrides = LAYOUTS[layout]
    short = (*overrides, "train.steps=4")
    straight = run(corpus, tmp_path / "straight", size, *short)
    config = corpus.config(tmp_path / "run", *MODEL, *short)
    assert train(config, size, stop_at=1) == [75] * size
    assert train(copied_config(corpus, tmp_path, short), size) == [0] * size
    digests = [summary(folder)["state_digest"] for folder in (straight, tmp_path / "again")]
    assert digests[0] == digests[1]


def copied_config(corpus: Corpus, tmp_path: Path, overrides: tuple[str, ...]) -> Any:
    """The stopped run, moved: nothing may depend on where it lies."""
    copied(tmp_path / "run", tmp_path / "again")
    return corpus.config(tmp_path / "again", *MODEL, *overrides)


@pytest.mark.slow(but=["context2"])
@pytest.mark.parametrize("layout", ["pipeline2 ZBVZeroBubble", "tensor2", "context2"])
def test_text_is_generated_on_every_layout(
    corpus: Corpus, one_rank: OneRank, tmp_path: Path, layout: str
) -> None:
    size, overrides = LAYOUTS[layout]
    words = (*overrides, "train.steps=2", "train.sample_tokens=7")
    found = run(corpus, tmp_path / "run", size, *words, "checkpoint.at_end=false")
    assert summary(found)["text"] == summary(one_rank(*words))["text"] != ""


def test_norms_of_blocks_are_told_on_request_and_make_up_the_whole(
    corpus: Corpus, tmp_path: Path
) -> None:
    asked = ("telemetry.gradient_groups=true", "train.steps=2", "checkpoint.at_end=false")
    found = [
        lines(run(corpus, tmp_path / name, size, *words, *asked), "metrics")[-1]
        for name, size, words in (("one", 1, ()), ("cut", 2, PIPELINE))
    ]
    blocks = {"embed_tokens", "norm", "lm_head", *(f"layers.{n}" for n in range(2))}
    for line in found:
        assert set(line["grad_norms"]) == blocks
        squares = sum(norm**2 for norm in line["grad_norms"].values())
        assert line["grad_norm"] == pytest.approx(squares**0.5, rel=1e-6)
    assert found[0]["grad_norms"] == pytest.approx(found[1]["grad_norms"], rel=1e-6)


REFUSED = {
    "parallel.tensor=3 data.sequence_length=18": (
        3,
        "parallel.tensor: found 3 for 2 attention heads",
    ),
    "parallel.pipeline=2 parallel.schedule=1F1B train.microbatch_samples=16": (
        2,
        "train.microbatch_samples: found 16, which makes 1 micro-batches a rank, needed 2 or more",
    ),
    "parallel.pipeline=3 train.microbatch_samples=2 model.num_layers=2": (
        3,
        "found 3 stages for 2 blocks",
    ),
    "parallel.pipeline=2 parallel.microbatches=3": (2, "found 3, needed 0 or 4"),
    "parallel.pipeline=2 parallel.schedule=Interleaved1F1B train.batch_samples=20": (
        2,
        "found 5 micro-batches a rank, needed a multiple of its 2 rounds",
    ),
    "parallel.context=2 data.sequence_length=18": (2, "found 18, needed a multiple of 4"),
    "parallel.tensor=2 parallel.shard=2": (2, "found 2 ranks, needed 4"),
    "parallel.pipeline=2 parallel.schedule=gone.csv": (2, "No such file"),
}


@pytest.mark.parametrize("words", REFUSED)
def test_a_layout_that_cannot_be_is_refused_in_one_sentence(
    corpus: Corpus, tmp_path: Path, words: str
) -> None:
    size, sentence = REFUSED[words]
    found = refusals(corpus.config(tmp_path / "run", *MODEL, *words.split()), size)
    assert [name for name, _ in found] == ["ConfigError"] * size
    assert all(sentence in said for _, said in found)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
