"""Whole jobs under planned faults of every kind that a run is to live through."""

from pathlib import Path

import pytest
from support.job import Ran, overrides, start_job

FAULTS = {
    "stopped": ("{do:stop,rank:1,step:4}", "recovery.hang_seconds=1"),
    "cut off": ("{do:cut,rank:1,step:4}", "recovery.hang_seconds=600"),
    "killed with its gradient there": ("{do:kill,rank:0,step:4,phase:step}", "chaos.seed=0"),
    "killed before a save": ("{do:kill,rank:1,step:5,phase:save}", "chaos.seed=0"),
    "killed where a seed draws it": ("{do:kill,step:6}", "chaos.seed=3"),
}


@pytest.mark.slow(but=["cut off", "killed with its gradient there"])
@pytest.mark.parametrize("name", FAULTS)
def test_a_run_whose_rank_is_struck_ends_as_if_it_had_not_been(
    name: str, tmp_path: Path, undisturbed
) -> None:
    fault, more = FAULTS[name]
    ran = Ran(tmp_path / "run")
    with start_job(2, overrides(ran.folder, f"chaos.plan=[{fault}]", more), folder=tmp_path) as job:
        assert job.wait() == [0, 0], job.errors(0)
        job.until(lambda: not job.processes(), 30.0, "end of all processes")
    assert len(ran.events("recovery")) == 1
    assert (ran.digest, ran.losses) == (undisturbed(2).digest, undisturbed(2).losses)


@pytest.mark.slow
@pytest.mark.parametrize("in_place", [True, False])
def test_a_run_that_is_struck_at_a_rate_gets_past_each_strike(
    in_place: bool, tmp_path: Path, undisturbed
) -> None:
    ran, plan = Ran(tmp_path / "run"), "chaos.plan=[{do:kill,rate:600}]"
    words = overrides(ran.folder, plan, f"recovery.in_place={in_place}", "chaos.seed=1")
    with start_job(2, words, folder=tmp_path) as job:
        assert job.wait() == [0, 0], job.errors(0)
    marks = list((ran.folder / "chaos").iterdir())
    assert len(marks) >= 3
    assert 3 <= len(ran.events("failure")) <= len(marks)
    assert (ran.digest, ran.losses) == (undisturbed(2).digest, undisturbed(2).losses)


def test_a_slow_rank_and_a_full_disk_change_nothing(tmp_path: Path, undisturbed) -> None:
    slow, full = (
        "{do:slow,rank:0,step:2,steps:3,seconds:0.05}",
        "{do:fill,rank:1,step:2,bytes:1000000}",
    )
    ran, plan = Ran(tmp_path / "run"), f"chaos.plan=[{slow},{full}]"
    with start_job(2, overrides(ran.folder, plan), folder=tmp_path) as job:
        assert job.wait() == [0, 0], job.errors(0)
    assert ran.events("failure") == []
    assert (ran.digest, ran.losses) == (undisturbed(2).digest, undisturbed(2).losses)
