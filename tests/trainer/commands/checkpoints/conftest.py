"""A run with two checkpoints, and the command line as a shell has it: exit codes and all."""

import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.training import Corpus, train

from keepstep.trainer.commands.app import main
from keepstep.trainer.identity import RunFolder


@dataclass(frozen=True)
class Done:
    """What a command left."""

    exit_code: int
    stdout: str
    stderr: str


Keepstep = Callable[..., Done]


@pytest.fixture
def keepstep(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Keepstep:
    """Calls `keepstep checkpoint ...` in this process."""

    def call(*arguments: object) -> Done:
        words = ["keepstep", "checkpoint", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            main()
        out = capsys.readouterr()
        return Done(int(ended.value.code or 0), out.out, out.err)

    return call


@pytest.fixture(scope="session")
def run(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps on two ranks, saved after the second and the fourth."""
    folder = tmp_path_factory.mktemp("saved") / "run"
    overrides = ("train.steps=4", "checkpoint.every_steps=2")
    config = corpus.config(folder, *overrides)
    with closing(RunFolder(config)) as own:  # as the launcher does
        own.open()
        assert train(config, 2) == [0, 0]
    return folder
