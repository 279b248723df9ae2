"""Training from a bucket is training from a disk: same samples, same bits, even over an outage."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.s3.faults import Faults
from support.s3_server import S3Server, s3_server
from support.training import Corpus, events, losses, summary, train
from support.world import run_world

from keepstep.data import prepare

SHAPE = ("train.steps=30", "model.num_layers=1")
OUTAGE_SECONDS = float(os.environ.get("KEEPSTEP_OUTAGE_SECONDS", "3"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with s3_server(Faults()) as one:
        yield one


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A text of some twenty extents, so that a run goes on needing its store."""
    found = Corpus(tmp_path_factory.mktemp("large"), tmp_path_factory.mktemp("cache"))
    for number in range(40):
        words = np.random.default_rng(number).integers(0, 10**6, 5000)
        (found.texts / f"{number:02d}.txt").write_text(" ".join(map(str, words)))
    config = found.config(Path("unused"))
    run_world(1, lambda _: str(prepare(config.data, report=lambda words: None)), join=False)
    return found


@pytest.fixture
def bucket(server: S3Server, large: Corpus, tmp_path: Path) -> tuple[str, ...]:
    """That text as prepared tokens in a bucket, as overrides; read without anything ahead."""
    folder = prepare(large.config(tmp_path).data, report=lambda words: None)
    for path in folder.iterdir():
        server.put(f"tokens/{path.name}", path.read_bytes())
    return (
        *("data.path=s3://tokens", f"data.store.endpoint_url={server.endpoint}"),
        *(f"data.cache.folder={tmp_path}/cache", "data.cache.disk_bytes=0"),
        *("data.ahead_bytes=1", "data.held_bytes=1", "data.prefetch_batches=1"),
        *("data.cache.free_bytes=0", "data.fetch.backoff_most_seconds=0.2"),
    )


def outage_in_the_middle(server: S3Server, folder: Path, seconds: float) -> int:
    """Forks a process that takes the store away once the run has made some steps; its id."""
    child = os.fork()
    if child:
        return child
    try:
        deadline = time.monotonic() + 60
        metrics = folder / "metrics.jsonl"
        while time.monotonic() < deadline:
            if metrics.exists() and len(metrics.read_text().splitlines()) >= 8:
                server.outage(seconds)
                break
            time.sleep(0.005)
    finally:
        os._exit(0)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2])
def test_a_bucket_that_goes_away_for_a_while_changes_no_bit(
    server: S3Server, bucket: tuple[str, ...], large: Corpus, tmp_path: Path, size: int
) -> None:
    assert train(large.config(tmp_path / "disk", *SHAPE), size) == [0] * size
    child = outage_in_the_middle(server, tmp_path / "bucket", seconds=OUTAGE_SECONDS)
    assert train(large.config(tmp_path / "bucket", *SHAPE, *bucket), size) == [0] * size
    os.waitpid(child, 0)
    ours, theirs = summary(tmp_path / "bucket"), summary(tmp_path / "disk")
    assert ours["state_digest"] == theirs["state_digest"]
    assert losses(tmp_path / "bucket") == losses(tmp_path / "disk")
    assert "data" not in theirs
    assert ours["data"]["gets"] > ours["data"]["retries"] > 0
    assert ours["data"]["amplification"] > 1  # nothing was kept
    told = events(tmp_path / "bucket", "outage")
    assert len(told) == len(events(tmp_path / "bucket", "outage_over")) == 1


@pytest.mark.slow
@pytest.mark.parametrize("packing", ["isolated", "fitted"])
def test_packed_documents_train_on_one_rank_and_two_alike(
    corpus: Corpus, tmp_path: Path, packing: str
) -> None:
    shape = (*SHAPE, f"data.packing={packing}", "train.steps=8", "data.lanes=2")
    one, two = tmp_path / "one", tmp_path / "two"
    train(corpus.config(one, *shape))
    train(corpus.config(two, *shape), 2)
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)


def test_a_mixture_goes_on_bit_for_bit_after_a_stop(corpus: Corpus, tmp_path: Path) -> None:
    mixture = (
        f"data.mixture=[{{name:a,path:{corpus.texts},weight:2}},{{name:b,path:{corpus.texts}}}]",
        "data.mixture_changes=[{samples:96,weights:[0,1]}]",
        *("data.path=null", "train.steps=12", "checkpoint.every_steps=4"),
    )
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    train(corpus.config(straight, *mixture))
    assert train(corpus.config(stopped, *mixture), stop_at=5) == [75]
    train(corpus.config(stopped, *mixture))
    assert summary(stopped)["state_digest"] == summary(straight)["state_digest"]
