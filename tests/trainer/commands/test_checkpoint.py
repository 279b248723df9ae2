"""`keepstep checkpoint`: lists, shows and verifies a run's checkpoints without its model."""

from pathlib import Path

import pytest
from support.training import Corpus, copied, train
from typer.testing import CliRunner, Result

from keepstep.trainer.commands.app import app
from keepstep.trainer.recovery.chaos import flip_byte


def keepstep(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def run(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps on two ranks, saved after the second and the fourth."""
    folder = tmp_path_factory.mktemp("saved") / "run"
    overrides = ("train.steps=4", "checkpoint.every_steps=2")
    assert train(corpus.config(folder, *overrides), 2) == [0, 0]
    return folder


def newest(run: Path) -> Path:
    return max((run / "checkpoints").glob("step-*"))


def test_list_prints_the_last_committed_first(run: Path) -> None:
    for place in (run, run / "checkpoints"):
        done = keepstep("checkpoint", "list", place)
        assert done.exit_code == 0
        first, second = done.stdout.splitlines()
        assert first.startswith(newest(run).name)
        assert second.startswith("step-000000002-")
        assert first.endswith("MiB  2 ranks")


def test_list_says_which_manifest_is_damaged(run: Path, tmp_path: Path) -> None:
    other = copied(run, tmp_path / "run")
    flip_byte(newest(other) / "manifest.json")
    done = keepstep("checkpoint", "list", other)
    assert done.exit_code == 0
    assert f"{newest(other).name}  manifest damaged" in done.stdout.splitlines()


def test_show_prints_progress_lineage_and_each_tensor(run: Path) -> None:
    done = keepstep("checkpoint", "show", newest(run))
    assert done.exit_code == 0
    assert "step       4\n" in done.stdout
    assert '"world_size": 2' in done.stdout
    assert '"samples": 64' in done.stdout
    assert "  model.embed_tokens.weight  float32 [300, 32]\n" in done.stdout
    assert "  optim.norm.weight.exp_avg  float32 [32]\n" in done.stdout


def test_verify_finds_a_whole_run_whole(run: Path) -> None:
    done = keepstep("checkpoint", "verify", run)
    assert done.exit_code == 0
    assert len(done.stdout.splitlines()) == 2
    assert all(line.endswith(": whole") for line in done.stdout.splitlines())


def test_verify_of_one_checkpoint_reads_that_one(run: Path) -> None:
    done = keepstep("checkpoint", "verify", newest(run))
    assert (done.exit_code, done.stdout) == (0, f"{newest(run)}: whole\n")


@pytest.mark.parametrize("name", ["rank-00000.safetensors", "rank-00001.safetensors", "manifest"])
def test_verify_names_the_file_of_a_flipped_byte(run: Path, tmp_path: Path, name: str) -> None:
    other = copied(run, tmp_path / "run")
    (path,) = newest(other).glob(f"{name}*")
    flip_byte(path)
    done = keepstep("checkpoint", "verify", other)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"{path}: ")
    assert done.stdout.splitlines() == [f"{min(path.parent.parent.iterdir())}: whole"]


def test_verify_names_a_missing_file(run: Path, tmp_path: Path) -> None:
    other = copied(run, tmp_path / "run")
    (newest(other) / "rank-00001.safetensors").unlink()
    done = keepstep("checkpoint", "verify", other)
    assert done.exit_code == 1
    assert f"{newest(other)}/rank-00001.safetensors: " in done.stderr
