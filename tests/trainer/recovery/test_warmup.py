"""What a spare does ahead leaves nothing behind, shows in no bit, and is no longer to be done."""

import itertools
import os
import resource
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from support.forks import fork, wait_for
from support.job import Ran, overrides, start_job, tiny

from keepstep.trainer.recovery.line import Line
from keepstep.trainer.warmup import warm_up

KILL = "chaos.plan=[{do:kill,rank:1,step:9}]"


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def test_it_leaves_no_group_no_file_and_no_device() -> None:
    def body() -> None:
        warm_up()
        before = open_files()
        warm_up()
        assert not dist.is_initialized()
        assert open_files() == before
        assert not torch.cuda.is_initialized()

    assert wait_for(fork(body)) == 0


def test_what_was_done_once_touches_little_new_memory() -> None:
    def body() -> None:
        counts = [faults()]
        for _ in range(3):
            warm_up()
            counts.append(faults())
        first, _, third = (b - a for a, b in itertools.pairwise(counts))
        assert third < first / 3, counts

    assert wait_for(fork(body)) == 0


def test_a_spare_that_could_not_warm_up_says_why_and_waits_for_its_order(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail() -> None:
        raise RuntimeError("no sockets left")

    guardian, mine = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    guardian.send(b'{"do": "warm_up"}')
    guardian.send(b'{"do": "begin", "order": {"generation": 7}}')
    assert Line(mine, fail).next_order() == {"generation": 7}
    assert "slower when it is needed: no sockets left" in caplog.text
    guardian.close()
    mine.close()


@pytest.mark.slow(but=["False"])
@pytest.mark.parametrize("fails", [False, True])
def test_a_spare_warms_up_and_goes_on_whatever_comes_of_it(
    fails: bool, tmp_path: Path, undisturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def warm() -> None:
        if not fails:
            warm_up()  # by this other name, since jobs of tests leave out the real one
        (tmp_path / f"warm-{os.getpid()}").touch()
        if fails:
            raise RuntimeError("no sockets left")

    monkeypatch.setattr("keepstep.trainer.launch.warm_up", warm)
    ran = Ran(tmp_path / "run")
    words = overrides(ran.folder, KILL)
    with start_job(2, words, folder=tmp_path, recipe=tiny(sleep_seconds=0.05)) as job:
        assert job.wait() == [0, 0], job.errors(0)
    assert len(list(tmp_path.glob("warm-*"))) >= 2
    assert ran.events("recovery")
    assert ran.digest == undisturbed(2).digest
