"""Any process of a job killed at any instant: no save is torn, none is lost, and the run that comes
out is the undisturbed one.

KEEPSTEP_KILLS sets how many instants the long tests kill at; a bucket sees 3 in 10 of them.
"""

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.job import Job, Ran, overrides, start_job, tiny
from support.seaweed import CREDENTIALS, seaweed

from keepstep.checkpoint import PlaceConfig, Store, committed, verify
from keepstep.checkpoint.config import Transport
from keepstep.checkpoint.stores import open_place
from keepstep.trainer.recovery.slots import slot_paths

KILLS = int(os.environ.get("KEEPSTEP_KILLS", "4"))
TARGETS = ("worker", "guardian", "server", "tree")
SLOW = tiny(sleep_seconds=0.01)


def strike(job: Job, target: str, rank: int) -> None:
    """SIGKILL to one process of that rank, or to all of all ranks; what is gone already is left."""
    if target == "tree":
        job.kill_tree()
        return
    parents, guardian = job.processes(), job.guardians[rank]
    server = next((pid for pid, parent in parents.items() if parent == guardian), None)
    worker = job.workers().get(rank)
    victim = {"guardian": guardian, "server": server, "worker": worker}[target]
    if victim in parents:
        assert victim is not None
        os.kill(victim, signal.SIGKILL)
    if target == "guardian":  # its launcher notices, and signals the others
        for other, pid in enumerate(job.guardians):
            if other not in job.codes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)


def assert_nothing_is_lost(ran: Ran, place: Store) -> None:
    """What the place holds is whole, and no older than what the run said that it had saved."""
    found, said = committed(place), ran.events("checkpoint")
    assert [verify(place, one.folder) for one in found] == [[]] * len(found)
    newest = max((one.step for one in found), default=0)
    assert newest >= max((one["step"] for one in said), default=0)


def kill_and_go_on(
    seed: int, folder: Path, words: list[str], place: Store, undisturbed: Ran, size: int
) -> None:
    """One kill at an instant that the seed draws; then the same command until the run is over."""
    dice, ran = random.Random(seed), Ran(folder / "run")
    target, rank = TARGETS[seed % len(TARGETS)], dice.randrange(size)
    with start_job(size, words, folder=folder, recipe=SLOW) as job:
        if dice.random() < 0.8:
            job.until(lambda: ran.losses or job.is_over(), 60.0, "first step")
        time.sleep(dice.uniform(0.0, 0.6))
        if not job.is_over():
            strike(job, target, rank)
        codes = job.wait(60.0)
        job.until(lambda: not job.processes(), 30.0, "end of all processes")
    assert_nothing_is_lost(ran, place)
    if codes != [0] * size:
        with start_job(size, words, folder=folder) as job:
            assert job.wait(60.0) == [0] * size, (target, job.errors(0))
            job.until(lambda: not job.processes(), 30.0, "end of all processes")
        assert_nothing_is_lost(ran, place)
    assert committed(place)[0].step == 10
    assert (ran.digest, ran.losses) == (undisturbed.digest, undisturbed.losses), target
    assert slot_paths(str(ran.folder.resolve())) == []


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keepstep.trainer.recovery.guardian._HURRIED_MEET_SECONDS", 1.0)


@pytest.mark.slow(but=["0", "1"])
@pytest.mark.parametrize("seed", range(KILLS))
def test_a_kill_at_any_instant_loses_nothing(seed: int, tmp_path: Path, undisturbed) -> None:
    size, every = 1 + seed // len(TARGETS) % 2, 1 + seed % 3
    words = overrides(tmp_path / "run", save_every=every)
    place = open_place(str(tmp_path / "run" / "checkpoints"))
    kill_and_go_on(seed, tmp_path, words, place, undisturbed(size), size)


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with seaweed(tmp_path_factory.mktemp("seaweed"), ["ckpt"]) as endpoint:
        yield endpoint


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 1 + max(1, KILLS * 3 // 10)))
def test_a_kill_at_any_instant_loses_nothing_in_a_bucket(
    seed: int, tmp_path: Path, undisturbed, credentials: None, endpoint: str
) -> None:
    # obstore may have been used by the process of which these jobs are forks.
    config = PlaceConfig(transport=Transport.fsspec, endpoint_url=endpoint)
    url, size = f"s3://ckpt/kill-{seed}", 1 + seed // len(TARGETS) % 2
    words = overrides(tmp_path / "run", f"checkpoint.path={url}", save_every=1 + seed % 3)
    words += ["checkpoint.store.transport=fsspec", f"checkpoint.store.endpoint_url={endpoint}"]
    kill_and_go_on(seed, tmp_path, words, open_place(url, config), undisturbed(size), size)
