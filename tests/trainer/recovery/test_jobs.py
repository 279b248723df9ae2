"""Whole jobs that are killed, hung and broken: the run that comes out is the undisturbed one."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
from support.gate import Gate
from support.job import Job, Ran, overrides, start_job, tiny

from keepstep.parallel import leave

SLOW = tiny(sleep_seconds=0.01)


def assert_equal(ran: Ran, reference: Ran) -> None:
    """Bit for bit: weights, optimizer state, and the loss of every step."""
    assert ran.losses == reference.losses
    assert ran.digest == reference.digest


def assert_recovered(ran: Ran, *, times: int = 1) -> None:
    assert len(ran.events("recovery")) == times
    assert ran.summary["recoveries"] == times


def sleep_into(job: Job, ran: Ran, seed: int) -> None:
    """Waits for the first step and then for a random moment of the steps that follow."""
    job.until(lambda: ran.losses, 60.0, "first step")
    time.sleep(random.Random(seed).uniform(0.0, 0.2))


@pytest.mark.slow(but=["2-1-0", "2-0-9"])
@pytest.mark.parametrize(("size", "rank", "step"), [(1, 0, 4), (2, 1, 0), (2, 0, 9), (4, 2, 7)])
def test_a_worker_killed_at_a_step_costs_nothing(
    size: int, rank: int, step: int, tmp_path: Path, undisturbed
) -> None:
    ran, plan = Ran(tmp_path / "run"), f"chaos.plan=[{{do:kill,rank:{rank},step:{step}}}]"
    with start_job(size, overrides(ran.folder, plan), folder=tmp_path) as job:
        assert job.wait() == [0] * size, job.errors(0)
        job.until(lambda: not job.processes(), 30.0, "end of all processes")
    assert_equal(ran, undisturbed(size))
    assert_recovered(ran)
    (failure,) = ran.events("failure")
    assert (failure["rank"], failure["step"]) == (rank, step)
    assert failure["reason"] == "killed by SIGKILL"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_worker_killed_from_outside_at_any_moment_costs_nothing(
    seed: int, tmp_path: Path, undisturbed
) -> None:
    ran = Ran(tmp_path / "run")
    gate = Gate(ran, steps=8)
    with start_job(2, overrides(ran.folder), folder=tmp_path, recipe=gate.recipe(SLOW)) as job:
        sleep_into(job, ran, seed)
        os.kill(job.worker(seed % 2), signal.SIGKILL)
        gate.open()
        assert job.wait() == [0, 0], job.errors(0)
        job.until(lambda: not job.processes(), 30.0, "end of all processes")
    assert_equal(ran, undisturbed(2))
    assert ran.events("failure")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_whole_tree_killed_goes_on_with_the_same_command(
    seed: int, tmp_path: Path, undisturbed
) -> None:
    ran, words = Ran(tmp_path / "run"), overrides(tmp_path / "run")
    with start_job(2, words, folder=tmp_path, recipe=Gate(ran, steps=8).recipe(SLOW)) as job:
        sleep_into(job, ran, seed)
        job.kill_tree()
        assert job.wait() == [-signal.SIGKILL] * 2
    assert not (ran.folder / "summary.json").exists()
    with start_job(2, words, folder=tmp_path) as job:
        assert job.wait() == [0, 0], job.errors(0)
    assert_equal(ran, undisturbed(2))


def test_both_workers_killed_at_once_is_one_recovery(tmp_path: Path, undisturbed) -> None:
    plan = "chaos.plan=[{do:kill,rank:0,step:5},{do:kill,rank:1,step:5}]"
    ran = Ran(tmp_path / "run")
    with start_job(2, overrides(ran.folder, plan), folder=tmp_path) as job:
        assert job.wait() == [0, 0], job.errors(0)
    assert_equal(ran, undisturbed(2))
    assert len(ran.events("recovery")) in (1, 2)


def test_a_failure_during_a_recovery_begins_another(tmp_path: Path, undisturbed) -> None:
    kills = ",".join(f"{{do:kill,rank:{rank},step:3}}" for rank in (0, 1, 1))
    ran = Ran(tmp_path / "run")
    with start_job(2, overrides(ran.folder, f"chaos.plan=[{kills}]"), folder=tmp_path) as job:
        assert job.wait() == [0, 0], job.errors(0)
    assert_equal(ran, undisturbed(2))
    assert ran.summary["recoveries"] >= 1


def test_an_error_that_does_not_come_again_is_survived(tmp_path: Path, undisturbed) -> None:
    plan, ran = "chaos.plan=[{do:fail,rank:1,step:5}]", Ran(tmp_path / "run")
    with start_job(2, overrides(ran.folder, plan), folder=tmp_path) as job:
        assert job.wait() == [0, 0], job.errors(0)
    assert_equal(ran, undisturbed(2))
    assert_recovered(ran)
    (failure,) = ran.events("failure")
    assert (failure["rank"], failure["cause"]) == (1, "error")
    assert failure["reason"] == "PlannedFault: planned by chaos.plan"


def test_a_hung_worker_is_named_killed_and_replaced(tmp_path: Path, undisturbed) -> None:
    ran = Ran(tmp_path / "run")
    words = overrides(ran.folder, "chaos.plan=[{do:hang,rank:1,step:5}]", "recovery.hang_seconds=4")
    with start_job(2, words, folder=tmp_path) as job:
        assert job.wait() == [0, 0], job.errors(0)
        stacks = job.errors(1)
    assert_equal(ran, undisturbed(2))
    (hang,) = ran.events("hang")
    assert (hang["rank"], hang["step"]) == (1, 5)
    assert "in phase data" in hang["reason"]
    assert "in _hang" in stacks, "the stacks of the hung worker tell where it was"


@pytest.mark.slow
def test_a_rank_that_comes_to_no_collective_is_named_with_what_the_other_waits_in(
    tmp_path: Path, undisturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keepstep.trainer.recovery.worker._SHORTEST_SECONDS", 2.0)
    monkeypatch.setattr("keepstep.trainer.recovery.guardian._INQUEST_SECONDS", 2.0)
    ran = Ran(tmp_path / "run")
    words = overrides(ran.folder, "chaos.plan=[{do:hang,rank:1,step:5,phase:step}]")
    with start_job(2, words, folder=tmp_path) as job:  # long before recovery.hang_seconds
        assert job.wait(40.0) == [0, 0], job.errors(0)
    assert_equal(ran, undisturbed(2))
    (hang,) = ran.events("hang")
    assert (hang["rank"], hang["step"]) == (1, 5)
    assert "in phase step; rank 0 waits in " in hang["reason"]
    assert " of group " in hang["reason"]


@pytest.mark.slow
def test_a_stopped_worker_is_replaced(tmp_path: Path, undisturbed) -> None:
    ran, words = Ran(tmp_path / "run"), overrides(tmp_path / "run", "recovery.hang_seconds=4")
    gate = Gate(ran, steps=8)
    with start_job(2, words, folder=tmp_path, recipe=gate.recipe(SLOW)) as job:
        sleep_into(job, ran, 1)
        os.kill(job.worker(1), signal.SIGSTOP)
        gate.open()
        assert job.wait() == [0, 0], job.errors(0)
        job.until(lambda: not job.processes(), 30.0, "end of all processes")
    assert_equal(ran, undisturbed(2))
    assert ran.events("hang")


def test_a_damaged_checkpoint_is_named_and_the_older_one_used(tmp_path: Path, undisturbed) -> None:
    plan = "chaos.plan=[{do:corrupt,rank:0,step:8},{do:kill,rank:1,step:8}]"
    ran = Ran(tmp_path / "run")
    words, gate = overrides(ran.folder, plan, "recovery.snapshot_every=0"), Gate(ran, steps=3)
    with start_job(2, words, folder=tmp_path, recipe=gate.recipe(SLOW)) as job:
        job.until(lambda: 3 in ran.losses and ran.events("checkpoint"), 60.0, "save of step 3")
        gate.let(3)  # a save that is due before the last one has ended is made some steps later
        job.until(lambda: len(ran.events("checkpoint")) == 2, 60.0, "save of step 6")
        gate.open()
        assert job.wait() == [0, 0], job.errors(0)
    assert_equal(ran, undisturbed(2))
    (restore,) = ran.events("restore")
    assert "step-000000003-" in restore["path"]
    assert ["step-000000006-" in one["path"] for one in restore["damaged"]] == [True]


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    ran, words = Ran(tmp_path / "run"), overrides(tmp_path / "run", steps=3)
    for _ in range(2):
        with start_job(1, words, folder=tmp_path) as job:
            assert job.wait() == [0]
    assert len(ran.events("finish")) == 1
    assert "finished" in job.output(0)


def test_a_worker_that_is_done_waits_for_the_others_until_they_are(
    tmp_path: Path, undisturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 0 has written the summary and ended when rank 1 dies: nothing is trained again."""
    ran, mark = Ran(tmp_path / "run"), tmp_path / "died"

    def die_last() -> None:
        if os.environ["RANK"] == "1" and not mark.exists():
            while not ran.events("finish"):
                time.sleep(0.005)
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        leave()

    monkeypatch.setattr("keepstep.trainer.loop.leave", die_last)
    with start_job(2, overrides(ran.folder), folder=tmp_path) as job:
        assert job.wait() == [0, 0], job.errors(0)
    assert mark.exists()
    assert_equal(ran, undisturbed(2))
    assert len(ran.events("finish")) == 1


@pytest.mark.slow
def test_descriptors_of_a_guardian_stay_flat_over_ten_recoveries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keepstep.trainer.recovery.guardian.backoff_seconds", lambda *_, now: 0.0)
    ran, counts = Ran(tmp_path / "run"), dict[int, int]()
    kills = ",".join(f"{{do:kill,rank:0,step:{step}}}" for step in range(3, 13))
    words = overrides(ran.folder, f"chaos.plan=[{kills}]", steps=14, save_every=1)
    with start_job(1, words, folder=tmp_path, recipe=SLOW) as job:

        def over() -> bool:
            for worker in job.workers().values():
                now = len(os.listdir(f"/proc/{job.guardians[0]}/fd"))
                counts[worker] = min(now, counts.get(worker, now))
            return job.is_over()

        job.until(over, 60.0, "end of ten recoveries")
        assert job.wait() == [0], job.errors(0)
    assert_recovered(ran, times=10)
    assert len(counts) >= 8
    later = list(counts.values())[2:]  # the first saves open connections, which stay
    assert max(later) - min(later) <= 1, counts  # the line to a spare, where one waits
