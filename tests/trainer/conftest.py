"""A small text and its prepared tokens, made once a session, and imports made before the forks."""

from pathlib import Path

import pytest
from support.job import Ran, overrides, recovering, start_job
from support.training import Corpus
from support.world import run_world

from keepstep.data import prepare
from keepstep.trainer.recovery.preload import preload

preload()


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Forty files of sums; prepared in a fork, since the tokenizer leaves threads behind."""
    found = Corpus(tmp_path_factory.mktemp("texts"), tmp_path_factory.mktemp("cache"))
    for number in range(40):
        lines = (f"{number} times {step} makes {number * step}.\n" for step in range(30))
        (found.texts / f"table-{number:02d}.txt").write_text("".join(lines))
    config = found.config(Path("unused"))
    run_world(1, lambda _: str(prepare(config.data, report=lambda words: None)), join=False)
    return found


@pytest.fixture(scope="session")
def recovered(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A finished run of two ranks in which one was killed, with evaluations, checkpoints and a
    skipped step; nobody writes into it."""
    folder = tmp_path_factory.mktemp("recovered")
    plan = "[{do:kill,rank:1,step:30},{do:poison,rank:0,step:45}]"
    words = (f"chaos.plan={plan}", "train.eval_every=20", "telemetry.gradient_groups=true")
    words = (*words, "run.name=recovered")
    with start_job(
        2,
        overrides(folder / "recovered", *words, steps=60, save_every=20),
        folder=folder,
        recipe=recovering,
    ) as job:
        assert job.wait() == [0, 0], job.errors(0)
    return Ran(folder / "recovered")
