"""A run whose checkpoints lie in a bucket: it dies whole, and goes on on another machine."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.job import Ran, overrides, start_job, tiny
from support.seaweed import CREDENTIALS, seaweed


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with seaweed(tmp_path_factory.mktemp("seaweed"), ["ckpt"]) as endpoint:
        yield endpoint


@pytest.mark.slow
def test_a_run_goes_on_from_a_bucket_on_another_machine_and_keeps_other_runs_out(
    endpoint: str, tmp_path: Path, undisturbed: Callable[[int], Ran]
) -> None:
    place = ["checkpoint.path=s3://ckpt/run", f"checkpoint.store.endpoint_url={endpoint}"]
    # obstore may have been used by the process of which these jobs are forks.
    place += ["checkpoint.store.transport=fsspec", "run.name=mine", "checkpoint.keep=2"]
    first, second = (tmp_path / name for name in ("first", "second"))
    slow = tiny(sleep_seconds=0.05)
    with start_job(2, overrides(first, *place), folder=tmp_path, recipe=slow) as job:
        job.until(lambda: Ran(first).events("checkpoint"), 60.0, "checkpoint")
        job.kill_tree()
    with start_job(2, overrides(second, *place), folder=tmp_path) as job:
        assert job.wait(60.0) == [0, 0], job.errors(0)
    (restored,) = Ran(second).events("restore")
    assert restored["step"] in (3, 6, 9)
    assert Ran(second).digest == undisturbed(2).digest
    assert Ran(second).events("checkpoint")[-1]["path"].startswith("s3://ckpt/run/step-000000010-")
    other = overrides(tmp_path / "other", *place, "run.name=other")
    with start_job(2, other, folder=tmp_path) as job:
        assert job.wait(60.0) == [2, 2]
    assert "found the checkpoints of run mine, needed an empty place or those of run other" in (
        job.errors(0)
    )
