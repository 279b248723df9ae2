"""The entry of a job in one process: exit codes, one sentence for a mistake, sweeps."""

import json
import os
from pathlib import Path

import pytest
import torch
from support.training import events, summary
from support.world import run_world
from torch import nn

from keepstep.trainer import Recipe, RunConfig, StoppedError, Trainer
from keepstep.trainer.supervise import run, supervise

SMALL = (
    *("train.batch_samples=8", "train.microbatch_samples=4", "train.steps=4", "train.eval_every=0"),
    *("recovery.enabled=false", "parallel.device=cpu", "telemetry.progress=false"),
)


def line(config: RunConfig) -> Recipe:
    return Recipe(
        model=lambda: nn.Linear(3, 1),
        loss=lambda module, batch: module(batch["x"]).square().sum(),
        samples={"x": torch.arange(48.0).view(16, 3) / 48},
    )


def outcome(*argv: str, recipe: object = line) -> int:
    """The exit code of a job in a process of its own, as the launcher would see it."""
    code: int = run_world(
        1,
        lambda _: run(Trainer.fit, recipe, [*SMALL, *argv], label=lambda _: "line"),  # type: ignore[arg-type]
        join=False,
    )[0]
    return code


@pytest.fixture(autouse=True)
def own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_job_without_a_guardian_finishes_with_code_0_and_its_files() -> None:
    assert outcome("run.name=one") == 0
    folder = Path("runs/one")
    assert summary(folder)["steps"] == 4
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    files = {"config.yaml", "metrics.jsonl", "events.jsonl", "ledger.json", "summary.json"}
    about = {"audit.jsonl", "job.json", "lineage.json"}
    assert names == {*files, *about, "checkpoints"}


@pytest.mark.slow
def test_the_same_command_finds_its_run_by_name_and_another_begins_anew() -> None:
    assert [outcome(), outcome(), outcome("train.seed=1")] == [0, 0, 0]
    folders = sorted(Path("runs").iterdir())
    assert len(folders) == 2
    assert all(folder.name.startswith("line-") for folder in folders)
    assert sorted(len(events(folder, "start")) for folder in folders) == [1, 2]
    assert sorted(len(events(folder, "finish")) for folder in folders) == [1, 1]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["train.stps=3"], "train.stps: found no such key"),
        (["parallel.shard=3"], "parallel"),
        (["train.batch_samples=9"], "train.batch_samples: found 9"),
        (["run.resume=must"], "run.resume=must: found no checkpoint in"),
    ],
)
def test_a_mistake_is_code_2_and_one_sentence_without_a_traceback(
    argv: list[str], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert outcome(*argv) == 2
    said = capfd.readouterr().err
    assert said.startswith(f"keepstep: {words}")
    assert said.count("\n") == 1


def test_a_folder_of_another_configuration_is_code_2_and_left_alone(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert outcome("run.name=one") == 0
    kept = {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()}
    assert outcome("run.name=one", "optim.lr=0.5") == 2
    assert "found a run of another configuration (optim.lr was" in capfd.readouterr().err
    assert {path: path.read_bytes() for path in kept} == kept


def test_a_bug_is_code_1_with_its_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    def broken(config: RunConfig) -> Recipe:
        raise KeyError("a bug of mine")

    assert outcome(recipe=broken) == 1
    said = capfd.readouterr().err
    assert "Traceback" in said
    assert "a bug of mine" in said


def test_a_run_that_stops_itself_is_code_1_and_one_sentence(
    capfd: pytest.CaptureFixture[str],
) -> None:
    def stopping(config: RunConfig) -> Recipe:
        raise StoppedError("the reason; do this")

    assert outcome(recipe=stopping) == 1
    assert capfd.readouterr().err == "keepstep: the reason; do this\n"


def test_sigterm_is_code_75_and_the_same_command_goes_on() -> None:
    def signalled(config: RunConfig) -> Recipe:
        plain, calls = line(config), []

        def loss(module: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
            calls.append(1)
            if len(calls) == 3:
                os.kill(os.getpid(), 15)
            return plain.loss(module, batch)

        return Recipe(model=plain.model, loss=loss, samples=plain.samples)

    assert outcome("run.name=one", recipe=signalled) == 75
    assert events(Path("runs/one"), "preemption")[0]["step"] == 2
    assert outcome("run.name=one") == 0
    assert summary(Path("runs/one"))["steps"] == 4


def test_a_sweep_trains_each_combination_in_a_folder_of_its_own_and_ends_with_one_table(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert outcome("-m", "optim.lr=1e-3,3e-4", "train.seed=0,1", "train.steps=2") == 0
    found = [json.loads(path.read_text()) for path in Path("runs").glob("line-*/summary.json")]
    assert len({one["state_digest"] for one in found}) == 4
    (path,) = Path("runs").glob("sweep-*/sweep.json")
    rows = json.loads(path.read_text())
    assert [row["best"] for row in rows] == [True, False, False, False]
    assert rows == sorted(rows, key=lambda row: row["final_loss"])
    assert sorted(row["job"] for row in rows) == [0, 1, 2, 3]
    for row in rows:
        one = summary(Path(row["folder"]))
        assert (row["final_loss"], row["goodput"]) == (one["final_loss"], one["goodput"])
    table = capfd.readouterr().out.partition("overrides")[2].splitlines()
    assert table[1].startswith(f"best  {rows[0]['job']:>3}  optim.lr=")


@pytest.mark.slow
def test_jobs_of_a_sweep_that_fail_are_in_its_table_and_the_others_run(
    capfd: pytest.CaptureFixture[str],
) -> None:
    def fragile(config: RunConfig) -> Recipe:
        if config.train.batch_samples == 12:
            raise KeyError("a bug of mine")
        if config.train.batch_samples == 16:
            os.kill(os.getpid(), 9)
        return line(config)

    assert outcome("-m", "train.batch_samples=9,12,16,8", recipe=fragile) == 2
    (path,) = Path("runs").glob("sweep-*/sweep.json")
    rows = json.loads(path.read_text())
    assert [(row["job"], row["code"]) for row in rows] == [(3, 0), (0, 2), (1, 1), (2, 1)]
    assert "train.batch_samples: found 9" in capfd.readouterr().err
    assert len(list(Path("runs").glob("line-*/summary.json"))) == 1


def test_a_sweep_of_wrong_keys_leaves_no_folder(capfd: pytest.CaptureFixture[str]) -> None:
    assert outcome("-m", "train.stps=1,2") == 2
    assert not Path("runs").exists() or not list(Path("runs").glob("sweep-*"))


def test_supervise_returns_after_success_and_exits_with_any_other_code() -> None:
    def body(_: int) -> list[object]:
        supervise(Trainer.fit, line, [*SMALL, "run.name=one"])
        with pytest.raises(SystemExit) as caught:
            supervise(Trainer.fit, line, ["train.stps=3"])
        return [caught.value.code]

    assert run_world(1, body, join=False) == [[2]]
