"""A place that is full, shut, silent or gone for a while: said, trained through, and made good; a
run that cannot save at all ends and says why."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.fault_proxy import FaultProxy, fault_proxy
from support.job import Job, Ran, overrides, start_job, tiny
from support.s3.faults import Faults
from support.s3_server import s3_server
from support.seaweed import CREDENTIALS

from keepstep.checkpoint import LocalStore, committed, verify

SLOW = tiny(sleep_seconds=0.02)


@pytest.fixture(autouse=True)
def haste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keepstep.trainer.recovery.saver._BACKOFF_SECONDS", 0.01)
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def steps(ran: Ran, kind: str) -> list[int]:
    return [one["step"] for one in ran.events(kind)]


def until(job: Job, ran: Ran, kind: str, count: int = 1) -> None:
    job.until(lambda: len(ran.events(kind)) >= count or job.is_over(), 60.0, f"{kind}")
    assert len(ran.events(kind)) >= count, job.errors(0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a megabyte of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "keepstep-test", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(1024)):
                continue
        except OSError:
            return


def shut(disk: Path) -> None:
    """Read-only for whoever comes by its path from now on."""
    subprocess.run(["mount", "--bind", f"{disk}/saved", f"{disk}/saved"], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", f"{disk}/saved"], check=True)


def unshut(disk: Path) -> None:
    subprocess.run(["umount", "-l", f"{disk}/saved"], check=True)


BREAK: dict[str, tuple[Callable[[Path], None], Callable[[Path], None], str]] = {
    "full": (fill, lambda disk: (disk / "filler").unlink(), "DiskFullError"),
    "read-only": (shut, unshut, "Read-only file system"),
}


@pytest.mark.slow(but=["full"])
@pytest.mark.parametrize("trouble", BREAK)
def test_a_disk_that_takes_nothing_is_said_trained_through_and_used_again(
    trouble: str, tmp_path: Path, small_disk: Path, undisturbed
) -> None:
    ran, (spoil, mend, words) = Ran(tmp_path / "run"), BREAK[trouble]
    place = f"checkpoint.path={small_disk}/saved"
    long = overrides(ran.folder, place, save_every=1)
    with start_job(1, long, folder=tmp_path, recipe=tiny(sleep_seconds=0.1)) as job:
        until(job, ran, "checkpoint", 2)
        spoil(small_disk)
        until(job, ran, "save_failed")
        os.kill(job.worker(0), signal.SIGKILL)  # what memory holds outlives that too
        until(job, ran, "restore")
        mend(small_disk)
        assert job.wait(60.0) == [0], job.errors(0)
        said = job.output(0)
    failed = ran.events("save_failed")[0]
    assert words in failed["reason"]
    assert [one["tries"] for one in ran.events("save_retry")][:3] == [1, 2, 3]
    assert f"step {failed['step']} is not saved yet (try 1 of 4): " in said
    assert f"step {failed['step']} was not saved: " in said
    (restore,) = ran.events("restore")
    assert (restore["path"], restore["step"] >= failed["step"]) == ("memory", True)
    assert steps(ran, "checkpoint")[-1] == 10
    found = LocalStore(small_disk / "saved")
    assert [verify(found, one.folder) for one in committed(found)] == [[]] * 3
    assert (ran.digest, ran.losses) == (undisturbed(1).digest, undisturbed(1).losses)


@pytest.mark.slow
def test_saves_that_fail_in_a_row_end_the_run_and_memory_goes_on(
    tmp_path: Path, small_disk: Path, undisturbed
) -> None:
    ran, place = Ran(tmp_path / "run"), f"checkpoint.path={small_disk}/saved"
    words = overrides(ran.folder, place, "checkpoint.max_failures=2", save_every=1)
    with start_job(2, words, folder=tmp_path, recipe=tiny(sleep_seconds=0.1)) as job:
        until(job, ran, "checkpoint")
        shut(small_disk)
        assert job.wait(60.0) == [1, 1]
        said = job.errors(0)
    assert "checkpoint.max_failures: found 2 saves in a row that failed, needed fewer than" in said
    assert "Read-only file system" in said
    assert "keepstep: the newest checkpoint is " in said
    unshut(small_disk)
    with start_job(2, words, folder=tmp_path) as job:
        assert job.wait(60.0) == [0, 0], job.errors(0)
    (restore,) = ran.events("restore")
    assert restore["path"] == "memory"
    assert restore["step"] > steps(ran, "checkpoint")[0]
    assert (ran.digest, ran.losses) == (undisturbed(2).digest, undisturbed(2).losses)


@pytest.mark.slow
def test_a_last_save_that_fails_ends_the_run_with_1_and_is_made_by_the_next_job(
    tmp_path: Path, small_disk: Path, undisturbed
) -> None:
    ran, place = Ran(tmp_path / "run"), f"checkpoint.path={small_disk}/saved"
    words = overrides(ran.folder, place, save_every=0)
    with start_job(1, words, folder=tmp_path, recipe=SLOW) as job:
        job.until(lambda: ran.losses, 60.0, "first step")
        fill(small_disk)
        assert job.wait(60.0) == [1]
        assert "keepstep: the last save, of step 10: DiskFullError" in job.errors(0)
    (small_disk / "filler").unlink()
    with start_job(1, words, folder=tmp_path) as job:
        assert job.wait(60.0) == [0], job.errors(0)
    assert steps(ran, "checkpoint") == [10]
    assert (ran.digest, ran.losses) == (undisturbed(1).digest, undisturbed(1).losses)


def bucket(folder: Path, endpoint: str, *more: str) -> list[str]:
    words = ["checkpoint.path=s3://ckpt/run", f"checkpoint.store.endpoint_url={endpoint}"]
    # obstore may have been used by the process of which these jobs are forks.
    words += ["checkpoint.store.transport=fsspec", *more]
    return overrides(folder, *words, save_every=1)


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    with s3_server(Faults()) as server, fault_proxy(server.endpoint) as proxy:
        server.put("ckpt/other", b"so that there is such a bucket")
        yield proxy


def refuse(proxy: FaultProxy, status: str) -> None:
    """From now on; `forget` ends it."""
    proxy.decide = lambda request: status


@pytest.mark.slow
@pytest.mark.parametrize("status", ["403", "503", "cut"])
def test_a_bucket_that_refuses_is_said_trained_through_and_used_again(
    status: str, tmp_path: Path, proxy: FaultProxy, undisturbed
) -> None:
    ran = Ran(tmp_path / "run")
    words = bucket(ran.folder, proxy.endpoint, "checkpoint.store.retry_seconds=0.2")
    with start_job(1, words, folder=tmp_path, recipe=tiny(sleep_seconds=0.1)) as job:
        until(job, ran, "checkpoint")
        refuse(proxy, status)
        until(job, ran, "save_retry")
        os.kill(job.worker(0), signal.SIGKILL)
        until(job, ran, "restore")
        until(job, ran, "save_failed")
        proxy.forget()
        assert job.wait(60.0) == [0], job.errors(0)
    assert [one["path"] for one in ran.events("restore")] == ["memory"]
    assert steps(ran, "checkpoint")[-1] == 10
    assert (ran.digest, ran.losses) == (undisturbed(1).digest, undisturbed(1).losses)


@pytest.mark.slow
def test_a_store_that_is_gone_for_a_while_costs_no_save(
    tmp_path: Path, proxy: FaultProxy, undisturbed
) -> None:
    """Asked again until it is there, within `checkpoint.store.retry_seconds`."""
    ran, words = Ran(tmp_path / "run"), bucket(tmp_path / "run", proxy.endpoint)
    with start_job(2, words, folder=tmp_path, recipe=SLOW) as job:
        until(job, ran, "checkpoint")
        proxy.forget()
        refuse(proxy, "503")
        job.until(lambda: len(proxy.seen) > 4, 60.0, "requests in the outage")
        proxy.forget()
        assert job.wait(60.0) == [0, 0], job.errors(0)
    assert steps(ran, "checkpoint")[-1] == 10
    assert {one["reason"].split(":")[0] for one in ran.events("save_failed")} <= {"SlotLostError"}
    assert (ran.digest, ran.losses) == (undisturbed(2).digest, undisturbed(2).losses)
