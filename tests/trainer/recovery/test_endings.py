"""How a job ends: exit codes, what is said and by whom, what is kept, and that nothing lives on."""

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.gate import Gate
from support.job import Job, Ran, overrides, start_job, tiny
from torch import Tensor, nn

from keepstep.data import DataError
from keepstep.trainer import ConfigError, Recipe, RunConfig
from keepstep.trainer.recipe import MakeRecipe

SLOW = tiny(sleep_seconds=0.02)
TRACE = "Traceback (most recent call last)"


def failing(error: Exception, when: Callable[[int], bool]) -> MakeRecipe:
    """A tiny recipe whose loss raises `error` at its n-th call in each life, if `when(n)`."""
    calls = 0

    def recipe(config: RunConfig) -> Recipe:
        made = tiny()(config)

        def loss(module: nn.Module, batch: dict[str, Any]) -> Any:
            nonlocal calls
            calls += 1
            if when(calls):
                raise error
            return made.loss(module, batch)

        return Recipe(model=made.model, loss=loss, samples=made.samples)

    return recipe


def refusing(error: Exception) -> MakeRecipe:
    def recipe(_: RunConfig) -> Recipe:
        raise error

    return recipe


def checkpointed(folder: Path) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("checkpoints/step-*"))


def sentence(job: Job) -> str:
    """What rank 0 said on standard error, which must be one line and where the newest checkpoint
    is, if there is one; other ranks said nothing."""
    # Without torch's own C++ log of connections that were lost on the way.
    native = re.compile(r"^\[[EWI]\d{4} .*\n", re.MULTILINE)
    said = [native.sub("", job.errors(rank)) for rank in range(len(job.guardians))]
    said[0] = re.sub(r"keepstep: the newest checkpoint is .*/step-\S+\n", "", said[0])
    assert said[1:] == [""] * len(said[1:]), said
    assert said[0].count("\n") == 1, said[0]
    assert said[0].startswith("keepstep: ")
    return said[0]


def test_the_same_error_at_the_same_step_twice_stops_with_the_users_traceback(
    tmp_path: Path,
) -> None:
    ran, recipe = Ran(tmp_path / "run"), failing(KeyError("of the user"), lambda n: n == 7)
    # Both lives count the calls from the first step on.
    words = overrides(ran.folder, "recovery.snapshot_every=0", save_every=0)
    with start_job(2, words, folder=tmp_path, recipe=recipe) as job:
        assert job.wait() == [1, 1]
        job.until(lambda: not job.processes(), 30.0, "end of all processes")
        said = job.errors(0)
        assert job.errors(1) == ""
    assert said.count(TRACE) == 1
    assert said.endswith("KeyError: 'of the user'\n")
    assert "step 3: KeyError" in said
    assert "in loss" in said
    assert 1 <= len(ran.events("failure")) <= 4
    assert ran.events("start")[-1]["generation"] == 1


def test_an_error_before_the_first_step_stops_at_once(tmp_path: Path) -> None:
    ran, recipe = Ran(tmp_path / "run"), failing(KeyError("of the user"), lambda n: n == 1)
    with start_job(2, overrides(ran.folder), folder=tmp_path, recipe=recipe) as job:
        assert job.wait() == [1, 1]
        said = job.errors(0)
    assert said.count(TRACE) == 1
    assert "KeyError: 'of the user'" in said
    assert [event["generation"] for event in ran.events("start")] == [0]


def test_an_error_of_the_recipe_itself_stops_at_once(tmp_path: Path) -> None:
    recipe = refusing(ZeroDivisionError("in the recipe"))
    with start_job(2, overrides(tmp_path / "run"), folder=tmp_path, recipe=recipe) as job:
        assert job.wait() == [1, 1]
        assert job.errors(0).count(TRACE) == 1
        assert job.errors(0).endswith("ZeroDivisionError: in the recipe\n")


def test_more_recoveries_than_allowed_stop_with_the_reason(tmp_path: Path) -> None:
    ran = Ran(tmp_path / "run")
    kills = ",".join(f"{{do:kill,rank:0,step:{step}}}" for step in (3, 4, 5))
    words = overrides(ran.folder, f"chaos.plan=[{kills}]", "recovery.max_recoveries=2")
    with start_job(1, words, folder=tmp_path) as job:
        assert job.wait() == [1]
        said = sentence(job)
    assert "recovery.max_recoveries: found more than 2 failures" in said
    assert "the last (killed by SIGKILL on rank 0, step 5)" in said
    assert len(ran.events("failure")) == 3


@pytest.mark.parametrize("enabled", ["true", "false"])
def test_a_failed_job_says_last_where_its_newest_checkpoint_is(
    enabled: str, tmp_path: Path
) -> None:
    ran, recipe = Ran(tmp_path / "run"), failing(KeyError("of the user"), lambda n: n == 21)
    more = (f"recovery.enabled={enabled}", "recovery.max_recoveries=0")
    with start_job(1, overrides(ran.folder, *more), folder=tmp_path, recipe=recipe) as job:
        assert job.wait() == [1]
        last = job.errors(0).splitlines()[-1]
    assert last.startswith(f"keepstep: the newest checkpoint is {ran.folder}/checkpoints/step-")
    assert Path(last.split(" is ")[1]).name.startswith("step-000000003-")


@pytest.mark.parametrize("error", [ConfigError("a.key: wrong"), DataError("data.path: /none")])
def test_a_wrong_setting_found_by_a_worker_is_one_sentence_and_exit_2(
    error: Exception, tmp_path: Path
) -> None:
    words = overrides(tmp_path / "run")
    with start_job(2, words, folder=tmp_path, recipe=refusing(error)) as job:
        assert job.wait() == [2, 2]
        assert sentence(job) == f"keepstep: {error}\n"
        job.until(lambda: not job.processes(), 30.0, "end of all processes")


def test_ranks_with_different_overrides_do_not_start(tmp_path: Path) -> None:
    words, odd = overrides(tmp_path / "run"), {1: ["train.seed=7"]}
    with start_job(2, words, folder=tmp_path, per_rank=odd) as job:
        assert job.wait() == [2, 2]
        assert "on rank 1" in sentence(job)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow(but=["true"])
@pytest.mark.parametrize("enabled", ["true", "false"])
def test_a_folder_of_another_run_is_refused_on_all_ranks(enabled: str, tmp_path: Path) -> None:
    words = overrides(tmp_path / "run", f"recovery.enabled={enabled}", steps=3)
    with start_job(2, words, folder=tmp_path) as job:
        assert job.wait() == [0, 0], job.errors(0)
    digest = Ran(tmp_path / "run").digest
    with start_job(2, [*words, "train.seed=7"], folder=tmp_path) as job:
        assert job.wait() == [2, 2]
        assert "train.seed was 0, is 7" in sentence(job)
    assert Ran(tmp_path / "run").digest == digest


@pytest.mark.slow
def test_a_stop_request_to_one_guardian_saves_and_ends_all(tmp_path: Path, undisturbed) -> None:
    ran, words = Ran(tmp_path / "run"), overrides(tmp_path / "run", save_every=0)
    gate = Gate(ran, steps=8)
    with start_job(2, words, folder=tmp_path, recipe=gate.recipe(SLOW)) as job:
        job.until(lambda: ran.losses, 60.0, "first step")
        os.kill(job.guardians[1], signal.SIGTERM)
        job.until(lambda: ran.events("stop"), 60.0, "note of the signal")
        gate.open()
        assert job.wait() == [75, 75], job.errors(0)
        job.until(lambda: not job.processes(), 30.0, "end of all processes")
    (preemption,) = ran.events("preemption")
    assert checkpointed(ran.folder) == [preemption["step"]] == [max(ran.losses)]
    assert preemption["step"] < 10
    with start_job(2, words, folder=tmp_path) as job:
        assert job.wait() == [0, 0], job.errors(0)
    assert ran.events("restore")[0]["step"] == preemption["step"]
    assert (ran.digest, ran.losses) == (undisturbed(2).digest, undisturbed(2).losses)


@pytest.mark.slow
def test_a_stop_request_before_the_first_step_saves_that_step(tmp_path: Path, undisturbed) -> None:
    ran, words = Ran(tmp_path / "run"), overrides(tmp_path / "run")
    with start_job(2, words, folder=tmp_path) as job:
        job.worker(0)
        os.kill(job.guardians[0], signal.SIGUSR1)
        assert job.wait() == [75, 75], job.errors(0)
    assert checkpointed(ran.folder)[-1] == ran.events("preemption")[0]["step"]
    with start_job(2, words, folder=tmp_path) as job:
        assert job.wait() == [0, 0], job.errors(0)
    assert ran.digest == undisturbed(2).digest


def test_a_save_that_does_not_come_within_the_grace_time_ends_the_job(tmp_path: Path) -> None:
    words = overrides(tmp_path / "run", "recovery.grace_seconds=0.3", steps=99)
    with start_job(1, words, folder=tmp_path, recipe=tiny(sleep_seconds=60.0)) as job:
        job.worker(0)
        time.sleep(0.2)
        os.kill(job.guardians[0], signal.SIGTERM)
        assert job.wait() == [1]
        assert "SIGTERM: found nothing saved within recovery.grace_seconds=0.3" in sentence(job)
        job.until(lambda: not job.processes(), 30.0, "end of all processes")


@pytest.mark.slow
def test_a_guardian_that_is_killed_takes_its_worker_with_it_and_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keepstep.trainer.recovery.guardian._MEET_SECONDS", 1.0)
    ran = Ran(tmp_path / "run")
    held = Gate(ran, steps=8).recipe(SLOW)
    with start_job(2, overrides(ran.folder), folder=tmp_path, recipe=held) as job:
        job.until(lambda: ran.losses, 60.0, "first step")
        worker = job.worker(1)
        os.kill(job.guardians[1], signal.SIGKILL)
        job.until(lambda: worker not in job.processes(), 30.0, "end of the worker")
        assert job.wait() == [1, -signal.SIGKILL]
        assert "found no guardian of ranks [1] for 1 s" in sentence(job)
        job.until(lambda: not job.processes(), 30.0, "end of all processes")


@pytest.mark.slow
def test_a_job_whose_guardian_was_killed_ends_soon_after_the_launchers_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keepstep.trainer.recovery.guardian._HURRIED_MEET_SECONDS", 0.5)
    ran = Ran(tmp_path / "run")
    # Rank 1's worker may live long enough to agree on a last save, which waits for its guardian.
    words, held = overrides(ran.folder, "recovery.grace_seconds=3"), Gate(ran, steps=8).recipe(SLOW)
    with start_job(2, words, folder=tmp_path, recipe=held) as job:
        job.until(lambda: ran.losses, 60.0, "first step")
        os.kill(job.guardians[1], signal.SIGKILL)
        os.kill(job.guardians[0], signal.SIGTERM)
        assert job.wait() == [1, -signal.SIGKILL]


def test_a_warm_server_that_is_killed_ends_the_job_with_a_sentence(tmp_path: Path) -> None:
    ran = Ran(tmp_path / "run")
    held = Gate(ran, steps=8).recipe(SLOW)
    with start_job(2, overrides(ran.folder), folder=tmp_path, recipe=held) as job:
        job.until(lambda: ran.losses, 60.0, "first step")
        server = job.processes()[job.worker(1)]
        os.kill(server, signal.SIGKILL)
        assert job.wait() == [1, 1]
        assert f"warm server: found its process {server} gone" in sentence(job)
        job.until(lambda: not job.processes(), 30.0, "end of all processes")


def test_a_lost_store_ends_every_rank_with_a_sentence(tmp_path: Path) -> None:
    ran = Ran(tmp_path / "run")
    words, held = overrides(ran.folder), Gate(ran, steps=8).recipe(SLOW)
    with start_job(2, words, folder=tmp_path, recipe=held, has_agent=False) as job:
        job.until(lambda: ran.losses, 60.0, "first step")
        os.kill(job.guardians[0], signal.SIGKILL)
        assert job.wait() == [-signal.SIGKILL, 1]
        # torch's own C++ log stands around it
        (words,) = [line for line in job.errors(1).splitlines() if line.startswith("keepstep:")]
        assert TRACE not in job.errors(1)
        assert words.startswith("keepstep: the store of the ranks: found it gone on rank 1")
        job.until(lambda: not job.processes(), 30.0, "end of all processes")


def test_rank_0_hosts_the_store_until_all_have_left(tmp_path: Path, undisturbed) -> None:
    words = overrides(tmp_path / "run")
    with start_job(2, words, folder=tmp_path, has_agent=False) as job:
        assert job.wait() == [0, 0]
        assert [job.errors(rank) for rank in range(2)] == [""] * 2


@pytest.mark.slow
def test_resume_never_and_must_and_a_step(tmp_path: Path, undisturbed) -> None:
    ran, words = Ran(tmp_path / "run"), overrides(tmp_path / "run")

    def start(*more: str) -> tuple[int, str]:
        # Slow enough that each save is over before the next is due.
        with start_job(1, [*words, *more], folder=tmp_path, recipe=SLOW) as job:
            (code,) = job.wait()
            return code, job.errors(0)

    code, said = start("run.resume=must")
    assert (code, said.count("\n")) == (2, 1)
    assert "found no checkpoint" in said
    assert start("run.resume=never") == (0, "")
    code, said = start("run.resume=never")
    assert (code, said.count("\n")) == (2, 1)
    assert "found a checkpoint of step 10" in said
    code, said = start("run.resume=5")
    assert (code, said.count("\n")) == (2, 1)
    assert "[6, 9, 10]" in said
    assert start("run.resume=6") == (0, "")
    assert ran.events("restore")[-1]["step"] == 6
    assert ran.digest == undisturbed(1).digest


@pytest.mark.parametrize("size", [1, 2])
def test_in_place_is_the_same_run_without_a_guardian(
    size: int, tmp_path: Path, undisturbed
) -> None:
    ran = Ran(tmp_path / "run")
    words = overrides(ran.folder, "recovery.enabled=false")
    with start_job(size, words, folder=tmp_path) as job:
        job.until(lambda: ran.losses, 60.0, "first step")
        assert job.workers() == {}
        assert job.wait() == [0] * size, job.errors(0)
    assert (ran.digest, ran.losses) == (undisturbed(size).digest, undisturbed(size).losses)


def test_a_stop_request_in_place_saves_and_ends_all(tmp_path: Path) -> None:
    ran = Ran(tmp_path / "run")
    words = overrides(ran.folder, "recovery.enabled=false", save_every=0)
    gate = Gate(ran, steps=8)
    with start_job(2, words, folder=tmp_path, recipe=gate.recipe(SLOW)) as job:
        job.until(lambda: ran.losses, 60.0, "first step")
        os.kill(job.guardians[1], signal.SIGTERM)
        gate.open()
        assert job.wait() == [75, 75], job.errors(0)
    assert checkpointed(ran.folder) == [max(ran.losses)]


def test_an_error_in_place_shows_the_traceback_of_the_rank_that_raised(tmp_path: Path) -> None:
    def recipe(config: RunConfig) -> Recipe:
        on_rank_1 = os.environ["RANK"] == "1"
        return failing(KeyError("of the user"), lambda n: on_rank_1 and n == 3)(config)

    words = overrides(tmp_path / "run", "recovery.enabled=false")
    with start_job(2, words, folder=tmp_path, recipe=recipe) as job:
        assert job.wait() == [1, 1]
        assert job.errors(1).count("KeyError: 'of the user'\n") == 1


def sweep(folder: Path, *more: str) -> list[str]:
    words = overrides(folder, "run.dir=" + str(folder) + "/${train.seed}", *more)
    return ["-m", *words, "train.seed=0,1"]


@pytest.mark.slow
@pytest.mark.parametrize("has_agent", [True, False])
def test_a_sweep_runs_its_jobs_in_turn(has_agent: bool, tmp_path: Path, undisturbed) -> None:
    with start_job(2, sweep(tmp_path), folder=tmp_path, has_agent=has_agent) as job:
        assert job.wait() == [0, 0], job.errors(0) + job.errors(1)
    assert Ran(tmp_path / "0").digest == undisturbed(2).digest
    assert Ran(tmp_path / "1").digest != undisturbed(2).digest


@pytest.mark.slow
def test_a_stop_request_to_a_sweep_ends_its_job_and_begins_no_other(tmp_path: Path) -> None:
    ran = Ran(tmp_path / "0")
    gate = Gate(ran, steps=8)
    with start_job(2, sweep(tmp_path), folder=tmp_path, recipe=gate.recipe(SLOW)) as job:
        job.until(lambda: ran.losses, 60.0, "first step")
        os.kill(job.guardians[1], signal.SIGTERM)
        job.until(lambda: ran.events("stop"), 60.0, "note of the signal")
        gate.open()
        assert job.wait() == [75, 75], job.errors(0)
        job.until(lambda: not job.processes(), 30.0, "end of all processes")
    assert ran.events("preemption")
    assert not (tmp_path / "1").exists()


@pytest.mark.slow
def test_a_killed_sweep_leaves_no_job_behind(tmp_path: Path) -> None:
    ran = Ran(tmp_path / "0")
    held = Gate(ran, steps=8).recipe(SLOW)
    with start_job(1, sweep(tmp_path), folder=tmp_path, recipe=held) as job:
        job.until(lambda: ran.losses, 60.0, "first step")
        os.kill(job.guardians[0], signal.SIGKILL)
        with contextlib.suppress(AssertionError):
            job.wait(timeout=5.0)
        job.until(lambda: not job.processes(), 30.0, "end of all processes")


def test_a_run_without_memory_says_what_to_change(tmp_path: Path) -> None:
    made = tiny()

    def recipe(config: RunConfig) -> Recipe:
        def loss(module: nn.Module, batch: dict[str, Tensor]) -> Tensor:
            torch.empty(2**60, dtype=torch.uint8)
            return module(batch["x"]).sum()

        return replace(made(config), loss=loss)

    with start_job(1, overrides(tmp_path / "run"), folder=tmp_path, recipe=recipe) as job:
        assert job.wait() == [1]
    words = job.errors(0)
    assert "allocate memory" in words
    assert "set train.microbatch_samples=1 (found 2), or memory.recompute=full" in words
