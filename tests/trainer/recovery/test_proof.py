"""Whether workers can be thrown out of a collective is tried out, and what follows where not."""

from datetime import timedelta
from pathlib import Path

import pytest
from support.forks import fork, wait_for
from support.job import Ran, overrides, start_job, tiny

from keepstep.parallel import Links
from keepstep.trainer.recovery.proof import can_be_freed

KILL = "chaos.plan=[{do:kill,rank:1,step:9}]"


def proves() -> None:
    assert can_be_freed()


def test_it_holds_here() -> None:
    assert wait_for(fork(proves)) == 0


def test_it_does_not_where_sockets_can_not_be_shut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keepstep.trainer.recovery.proof._LONGEST", timedelta(seconds=2))
    monkeypatch.setattr(Links, "shut", lambda self: None)
    assert wait_for(fork(proves)) == 1


def test_a_failure_is_survived_in_place_and_says_so(tmp_path: Path, undisturbed) -> None:
    ran = Ran(tmp_path / "run")
    with start_job(2, overrides(ran.folder, KILL), folder=tmp_path) as job:
        assert job.wait() == [0, 0], job.errors(0)
    (recovery,) = ran.events("recovery")
    assert (recovery["way"], recovery["ranks"]) == ("in place", [1])
    assert ran.digest == undisturbed(2).digest


@pytest.mark.slow
def test_where_it_does_not_hold_every_worker_is_replaced(
    tmp_path: Path, undisturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keepstep.trainer.recovery.line.can_be_freed", lambda: False)
    ran = Ran(tmp_path / "run")
    words = overrides(ran.folder, KILL)
    with start_job(2, words, folder=tmp_path, recipe=tiny(sleep_seconds=0.05)) as job:
        assert job.wait() == [0, 0], job.errors(0)
    assert ran.events("afresh_only")
    (recovery,) = ran.events("recovery")
    assert recovery["way"] == "afresh"
    assert ran.digest == undisturbed(2).digest
