"""Sweeps by submitit: on this machine for real, on SLURM as far as its sbatch file."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.world import run_world

from keepstep.parallel import World
from keepstep.trainer import ConfigError, Recipe, RunConfig, Trainer
from keepstep.trainer.submitted import world_of_job
from keepstep.trainer.supervise import run

SMALL = (
    *("train.batch_samples=8", "train.microbatch_samples=4", "train.steps=2", "train.eval_every=0"),
    *("recovery.enabled=false", "parallel.device=cpu", "telemetry.progress=false"),
)


@pytest.fixture(autouse=True)
def own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def portable() -> Callable[[RunConfig], Recipe]:
    """A recipe that travels by value, as a script's own does: this file is imported nowhere."""

    def recipe(config: RunConfig) -> Recipe:
        import torch
        from torch import nn

        return Recipe(
            model=lambda: nn.Linear(3, 1),
            loss=lambda module, batch: module(batch["x"]).square().sum(),
            samples={"x": torch.arange(48.0).view(16, 3) / 48},
        )

    return recipe


def sweep(*words: str) -> int:
    recipe = portable()

    def body(_: int) -> int:
        return run(Trainer.fit, recipe, ["-m", *SMALL, *words], label=lambda _: "line")

    code: int = run_world(1, body, join=False)[0]
    return code


@pytest.mark.slow
def test_a_job_of_two_ranks_runs_here_in_processes_of_its_own() -> None:
    launcher = ("hydra/launcher=submitit_local", "hydra.launcher.tasks_per_node=2")
    assert sweep(*launcher, "optim.lr=0.01") == 0
    (path,) = Path("runs").glob("sweep-*/sweep.json")
    (row,) = json.loads(path.read_text())
    assert (row["job"], row["code"], row["best"]) == (0, 0, True)
    found = json.loads((Path(row["folder"]) / "summary.json").read_text())
    assert (found["steps"], found["world_size"]) == (2, 2)


def test_slurm_is_asked_for_what_the_configuration_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    asked = tmp_path / "asked.sh"
    for name, body in (
        ("sbatch", f'cp "$1" {asked}; echo "no cluster here" >&2; exit 1'),
        ("srun", ""),
    ):
        (programs / name).write_text(f"#!/bin/sh\n{body}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    chosen = (
        *("hydra/launcher=slurm", "hydra.launcher.partition=gpu"),
        *("hydra.launcher.tasks_per_node=8", "hydra.launcher.gpus_per_node=8"),
    )
    assert sweep(*chosen, "optim.lr=0.01,0.1,1") == 1
    said = capfd.readouterr().err
    assert "keepstep: hydra/launcher: found that a job was not run to its end" in said
    lines = asked.read_text().splitlines()
    wanted = {
        *("array=0-2%3", "partition=gpu", "ntasks-per-node=8", "gpus-per-node=8", "nodes=1"),
        *("signal=USR1@120", "time=1440", "cpus-per-task=4"),
    }
    assert {f"#SBATCH --{one}" for one in wanted} <= set(lines)
    assert lines[-1].startswith("srun --unbuffered")


def test_ranks_of_torchrun_do_not_each_submit(monkeypatch: pytest.MonkeyPatch) -> None:
    import submitit

    monkeypatch.setattr(submitit, "JobEnvironment", lambda: object())
    with pytest.raises(ConfigError, match="found submitit asked by 2 ranks of torchrun"):
        world_of_job(World(0, 2, 0, 2, "127.0.0.1", 1, has_agent_store=True))


def test_without_submitit_a_world_is_as_it_was() -> None:
    before = World(1, 2, 1, 2, "127.0.0.1", 1, has_agent_store=True)
    assert world_of_job(before) is before
