"""Models with experts in whole runs: the same on every layout, stopped, moved, and steered."""

import dataclasses
from pathlib import Path

import pytest
import torch
from support.training import Corpus, differs, events, lines, losses, state, summary, train

from keepstep.trainer import Recipe, RunConfig
from keepstep.trainer.language_model import language_model

SMALL = (
    *("model=moe_tiny", "model.hidden_size=32", "model.intermediate_size=64", "model.num_heads=2"),
    *("model.num_kv_heads=2", "model.num_layers=3", "model.moe_intermediate_size=16"),
    *("train.steps=5", "train.microbatch_samples=4", "optim.lr=3e-3"),
)
LAYOUTS = {
    "shard2": (2, ("parallel.shard=2",)),
    "expert2": (2, ("parallel.expert=2",)),
    "tensor2": (2, ("parallel.tensor=2",)),
    "pipeline2": (2, ("parallel.pipeline=2",)),
    "context2-expert2": (2, ("parallel.context=2", "parallel.expert=2")),
    "shard4-expert2": (4, ("parallel.expert=2",)),
    "replicate2-expert2": (4, ("parallel.replicate=2", "parallel.expert=2")),
    "tensor2-expert2": (4, ("parallel.tensor=2", "parallel.expert=2")),
    "pipeline2-expert2": (4, ("parallel.pipeline=2", "parallel.expert=2")),
}


def run(corpus: Corpus, folder: Path, size: int, *overrides: str) -> Path:
    assert train(corpus.config(folder, *SMALL, *overrides), size) == [0] * size
    return folder


@pytest.fixture(scope="module")
def one_rank(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(corpus, tmp_path_factory.mktemp("moe") / "run", 1)


def metric(folder: Path, name: str) -> list[float]:
    return [line[name] for line in lines(folder, "metrics")]


@pytest.mark.slow(but=["expert2", "pipeline2"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_trains_as_one_rank_does(
    corpus: Corpus, one_rank: Path, tmp_path: Path, layout: str
) -> None:
    size, degrees = LAYOUTS[layout]
    found = run(corpus, tmp_path / "run", size, *degrees)
    assert differs(losses(found), losses(one_rank)) < 1e-5
    assert differs(metric(found, "grad_norm"), metric(one_rank, "grad_norm")) < 1e-4
    for name in ("router_max_load", "router_min_load", "router_entropy"):
        assert metric(found, name) == pytest.approx(metric(one_rank, name))
    mine, wanted = state(found), state(one_rank)
    assert mine.keys() == wanted.keys()
    for name, tensor in mine.items():
        torch.testing.assert_close(tensor, wanted[name], rtol=1e-3, atol=2e-5, msg=name)


@pytest.mark.slow
def test_an_auxiliary_loss_has_the_same_effect_on_every_layout(
    corpus: Corpus, tmp_path: Path
) -> None:
    by_loss = ("model.load_balance=loss", "model.balance_loss_weight=0.5", "train.steps=3")
    one = run(corpus, tmp_path / "one", 1, *by_loss)
    for name in ("tensor2", "context2-expert2"):
        size, degrees = LAYOUTS[name]
        found = run(corpus, tmp_path / name, size, *degrees, *by_loss)
        assert differs(losses(found), losses(one)) < 1e-5
        assert differs(metric(found, "grad_norm"), metric(one, "grad_norm")) < 1e-4
    without = run(corpus, tmp_path / "without", 1, *by_loss, "model.load_balance=none")
    assert losses(without)[0] == losses(one)[0]
    assert metric(one, "router_entropy")[-1] > metric(without, "router_entropy")[-1]


@pytest.mark.slow
def test_a_bias_evens_the_loads_out(corpus: Corpus, tmp_path: Path) -> None:
    one = ("train.steps=30", "train.microbatch_samples=16", "checkpoint.at_end=false")
    fast = run(corpus, tmp_path / "bias", 1, *one, "model.balance_bias_rate=0.004")
    without = run(corpus, tmp_path / "none", 1, *one, "model.load_balance=none")
    even, uneven = (metric(folder, "router_entropy") for folder in (fast, without))
    assert sum(even[-4:]) / 4 > 0.85
    assert sum(uneven[-4:]) / 4 < 0.7


@pytest.mark.slow
def test_recomputed_blocks_choose_and_count_as_before(
    corpus: Corpus, one_rank: Path, tmp_path: Path
) -> None:
    size, degrees = LAYOUTS["expert2"]
    found = run(corpus, tmp_path / "run", size, *degrees, "memory.recompute=full")
    assert differs(losses(found), losses(one_rank)) < 1e-5
    assert metric(found, "router_entropy") == pytest.approx(metric(one_rank, "router_entropy"))


@pytest.mark.slow
def test_a_stopped_run_of_shared_experts_goes_on_bit_for_bit(
    corpus: Corpus, tmp_path: Path
) -> None:
    shared = (*SMALL, "parallel.expert=2")
    config = corpus.config(tmp_path / "run", *shared)
    assert train(config, 2, stop_at=1) == [75, 75]
    assert train(config, 2) == [0, 0]
    straight = run(corpus, tmp_path / "straight", 2, "parallel.expert=2")
    assert losses(tmp_path / "run") == losses(straight)
    assert summary(tmp_path / "run")["state_digest"] == summary(straight)["state_digest"]


@pytest.mark.slow
def test_a_checkpoint_moves_between_shared_experts_and_one_rank(
    corpus: Corpus, one_rank: Path, tmp_path: Path
) -> None:
    assert train(corpus.config(tmp_path / "run", *SMALL, "parallel.expert=2"), 2, stop_at=1) == [
        75,
        75,
    ]
    assert train(corpus.config(tmp_path / "run", *SMALL), 1, stop_at=3) == [75]
    assert train(corpus.config(tmp_path / "run", *SMALL, "parallel.expert=2"), 2) == [0, 0]
    assert [event["step"] for event in events(tmp_path / "run", "restore")] == [2, 4]
    assert differs(losses(tmp_path / "run"), losses(one_rank)) < 1e-5


def biases(folder: Path) -> torch.Tensor:
    named = state(folder).items()
    return torch.stack([one for name, one in named if name.endswith("e_score_correction_bias")])


def poisoned(config: RunConfig) -> Recipe:
    """The loss is not a number from the third micro-batch on, which is the second step's first."""
    plain, count = language_model(config), 0

    def loss(module: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        nonlocal count
        count += 1
        found = plain.loss(module, batch)
        return found if count <= 2 else found * float("nan")

    return dataclasses.replace(plain, loss=loss, eval_samples=None)


@pytest.mark.slow
def test_a_step_that_is_skipped_leaves_the_bias_where_it_was(
    corpus: Corpus, tmp_path: Path
) -> None:
    steps = ("train.steps=1", "parallel.expert=2")
    once = run(corpus, tmp_path / "once", 2, *steps)
    config = corpus.config(tmp_path / "run", *SMALL, *steps, "train.steps=3")
    assert train(config, 2, recipe=poisoned) == [0, 0]
    assert summary(tmp_path / "run")["skips"] == 2
    assert biases(once).abs().unique().tolist() == pytest.approx([0.001])
    assert torch.equal(biases(tmp_path / "run"), biases(once))
