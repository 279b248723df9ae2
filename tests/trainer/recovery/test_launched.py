"""The main job as a user starts it: by the real torchrun and by the command `keepstep`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.job import Ran, start_job

from keepstep.trainer.language_model import language_model

TEXT = "".join(f"In line {n} the {n * n % 97}th of them said {n % 7} words.\n" for n in range(1500))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("launched")
    (found / "text").mkdir()
    for part in range(4):
        (found / "text" / f"part-{part}.txt").write_text(TEXT[part::2])
    return found


def words(folder: Path, name: str, *more: str) -> list[str]:
    return [
        "model.hidden_size=32",
        "model.intermediate_size=64",
        "model.num_layers=1",
        "model.num_heads=2",
        "model.num_kv_heads=1",
        f"data.path={folder}/text",
        f"data.cache.folder={folder}/cache",
        "data.vocabulary_size=300",
        "data.sequence_length=32",
        "train.steps=8",
        "train.batch_tokens=256",
        "train.microbatch_samples=2",
        "train.sample_tokens=4",
        "checkpoint.every_steps=3",
        f"run.dir={folder}/{name}",
        *more,
    ]


def start(command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end; one that is late is asked to end, as a scheduler would."""
    pipe, environment = subprocess.PIPE, {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=pipe, stderr=pipe, text=True
    ) as process:
        try:
            out, err = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            process.terminate()
            raise
    assert process.returncode == 0, err
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def torchrun(folder: Path, name: str, *more: str) -> Ran:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    job = ["-m", "keepstep.trainer", *words(folder, name, *more)]
    start([sys.executable, *launcher, *job], folder)
    return Ran(folder / name)


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Ran:
    """Not from a launcher: for its bits who starts the guardians is nothing."""
    asked = words(folder, "undisturbed")
    with start_job(2, asked, folder=folder, recipe=language_model) as job:
        assert job.wait(60.0) == [0, 0], job.errors(0)
    return Ran(folder / "undisturbed")


def test_under_torchrun_a_killed_worker_costs_nothing(folder: Path, undisturbed: Ran) -> None:
    killed = torchrun(folder, "killed", "chaos.plan=[{do:kill,rank:1,step:5}]")
    assert (killed.digest, killed.losses) == (undisturbed.digest, undisturbed.losses)
    assert [ran.summary["recoveries"] for ran in (killed, undisturbed)] == [1, 0]
    assert killed.summary["world_size"] == 2


@pytest.mark.slow
def test_the_command_alone_trains_the_same_run(folder: Path, undisturbed: Ran) -> None:
    command = Path(sys.executable).with_name("keepstep")
    done = start([str(command), "train", *words(folder, "alone")], folder)
    alone = Ran(folder / "alone")
    assert alone.losses == pytest.approx(undisturbed.losses, rel=1e-5)
    assert alone.summary["world_size"] == 1
    assert "finished: " in done.stdout
