"""A stopped run goes on bit for bit, whatever the optimizer keeps."""

from pathlib import Path

import pytest
from support.training import Corpus, losses, summary, train

OPTIMIZERS = {
    "adamw, bf16 moments": ("optim=adamw", "optim.state_dtype=bf16"),
    "lion": ("optim=lion", "optim.lr=1e-3"),
    "sgd": ("optim=sgd", "optim.lr=0.1", "optim.nesterov=true"),
    "muon": ("optim=muon", "schedule=linear"),
    "muon, bf16 momentum": ("optim=muon", "optim.state_dtype=bf16", "schedule=inverse_sqrt"),
}


@pytest.mark.slow
@pytest.mark.parametrize("overrides", OPTIMIZERS.values(), ids=list(OPTIMIZERS))
def test_a_stopped_run_goes_on_bit_for_bit(
    corpus: Corpus, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    wanted = ("train.steps=4", "schedule.warmup_steps=2", *overrides)
    straight, stopped = (corpus.config(tmp_path / name, *wanted) for name in ("one", "two"))
    assert train(straight, 2) == [0, 0]
    assert train(stopped, 2, stop_at=1) == [75, 75]
    assert train(stopped, 2) == [0, 0]
    assert losses(tmp_path / "two") == losses(tmp_path / "one")
    ends = [summary(tmp_path / name)["state_digest"] for name in ("one", "two")]
    assert ends[0] == ends[1]
    assert losses(tmp_path / "one")[-1] < losses(tmp_path / "one")[0]
