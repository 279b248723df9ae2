"""A small text and its prepared tokens, made once a session, and imports made before the forks."""

from pathlib import Path

import pytest
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
