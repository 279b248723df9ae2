"""`keepstep data bench`: what it counted is what was asked of the store."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.s3.faults import Faults
from support.s3_server import S3Server, s3_server
from typer.testing import CliRunner, Result

from keepstep.trainer.commands.app import app

TOKENS = np.random.default_rng(0).integers(0, 500, 200_000).astype(np.uint16)


def bench(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["data", "bench", *map(str, arguments)])


@pytest.fixture
def overrides(tmp_path: Path) -> list[str]:
    return [
        *("data.format=raw", "data.token_dtype=uint16", "data.sequence_length=16"),
        *("train.batch_samples=64", "data.cache.free_bytes=0"),
        f"data.cache.folder={tmp_path}/cache",
    ]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with s3_server(Faults()) as one:
        one.put("raw/a.bin", TOKENS.tobytes())
        yield one


def test_a_bucket_is_fetched_when_cold_and_read_from_disk_when_warm(
    server: S3Server, overrides: list[str], tmp_path: Path
) -> None:
    server.set(latency=0.05)  # so that what is cold has to be waited for
    endpoint = f"data.store.endpoint_url={server.endpoint}"
    done = bench("s3://raw", "--seconds", 0.3, "--json", *overrides, endpoint)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    cold, warm = found["cold"], found["warm"]
    # Beside the ranges: a look for a lock, cold and warm.
    assert cold["counts"]["gets"] + 2 == server.counts()["requests"]["get"]
    assert warm["counts"]["gets"] == 0 < warm["counts"]["disk_hits"]
    assert cold["counts"]["amplification"] > 0 == warm["counts"]["amplification"]
    for one in (cold, warm):
        assert one["samples"] % 64 == 0
        assert one["bytes"] == one["samples"] * 17 * 2
        assert one["samples_per_second"] == pytest.approx(one["samples"] / one["seconds"])
        assert one["seconds"] >= one["first_batch_seconds"] > 0
    assert cold["waited_seconds"]["network"] > 0 == warm["waited_seconds"]["network"]
    # The cache of the run's own folder is left alone.
    assert not (tmp_path / "cache" / "extents").exists()


def test_the_table_names_retries_by_their_cause(
    server: S3Server, overrides: list[str], tmp_path: Path
) -> None:
    server.set(reset=0.5)
    words = [*overrides, f"data.store.endpoint_url={server.endpoint}"]
    done = bench("data.path=s3://raw", "--seconds", 0.1, "--cache", tmp_path / "kept", *words)
    assert done.exit_code == 0, done.output
    assert "retries: reset" in done.stdout
    assert {"cold", "warm", "amplification"} <= set(done.stdout.split())
    assert any((tmp_path / "kept").iterdir())


def test_local_files_are_read_where_they_lie(overrides: list[str], tmp_path: Path) -> None:
    TOKENS.tofile(tmp_path / "a.bin")
    done = bench(tmp_path / "a.bin", "--seconds", 0.05, *overrides)
    assert done.exit_code == 0, done.output
    assert "local files" in done.stdout
    assert "samples/s" in done.stdout
