"""`keepstep data explain`: what it says of a position is what a run reads there."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.s3.faults import Faults
from support.s3_server import S3Server, s3_server
from typer.testing import CliRunner, Result

from keepstep.data import Loader, open_corpus, order_of
from keepstep.trainer.commands.app import app
from keepstep.trainer.compose import compose
from keepstep.trainer.errors import ConfigError

LENGTH = 16
TOKENS = np.random.default_rng(0).integers(0, 500, 20_000).astype(np.uint16)


def explain(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["data", "explain", *map(str, arguments)])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with s3_server(Faults()) as one:
        yield one


@pytest.fixture
def overrides(tmp_path: Path) -> list[str]:
    """Raw tokens in two files of this machine."""
    (tmp_path / "raw").mkdir()
    TOKENS[:9000].tofile(tmp_path / "raw" / "a.bin")
    TOKENS[9000:].tofile(tmp_path / "raw" / "b.bin")
    return [
        *(f"data.path={tmp_path}/raw", "data.format=raw", "data.token_dtype=uint16"),
        *(f"data.sequence_length={LENGTH}", "train.batch_samples=16", "train.microbatch_samples=4"),
        *(f"data.cache.folder={tmp_path}/cache", "data.cache.free_bytes=0", "data.lanes=4"),
    ]


def bytes_of(line: str) -> bytes:
    found = re.match(r"  (\S+) \[(\d+), (\d+)\) ", line)
    assert found is not None, line
    return Path(found[1]).read_bytes()[int(found[2]) : int(found[3])]


def test_rank_batch_and_bytes_are_those_of_the_loader(overrides: list[str]) -> None:
    done = explain("16:31", "--ranks", 2, *overrides)
    assert done.exit_code == 0, done.output
    rows: dict[tuple[int, int, int], bytes] = {}
    key = (0, 0, 0)
    for line in done.stdout.splitlines():
        found = re.search(r"step 1, rank (\d) of 2, micro-batch (\d), row (\d)", line)
        if found:
            key = (int(found[1]), int(found[2]), int(found[3]))
            rows[key] = b""
        else:
            assert line.endswith(" local file")
            rows[key] += bytes_of(line)
    config = compose(overrides)
    corpus = open_corpus(config.data, report=lambda words: None)
    for rank in range(2):
        with Loader(
            corpus.train,
            order_of(corpus.train, config.data),
            batch_samples=16,
            microbatch_samples=4,
            reader_index=rank,
            reader_count=2,
        ).open(16) as loader:
            window = next(loader)
        for number, batch in zip(window.microbatches, window.batches, strict=True):
            for row, tokens in enumerate(batch["tokens"].numpy()):
                assert rows.pop((rank, number, row)) == tokens.tobytes()
    corpus.close()
    assert not rows


def test_a_block_is_next_wanted_as_the_order_says(overrides: list[str]) -> None:
    line = explain("5", *overrides).stdout.splitlines()[0]
    config = compose(overrides)
    corpus = open_corpus(config.data, report=lambda words: None)
    order = order_of(corpus.train, config.data)
    corpus.close()
    sample = order.samples(np.array([5]))[1]
    assert f"epoch 0, sample {sample[0]};" in line
    assert line.endswith(f"next from position {order.next_use(sample, 6)[0]}")


def test_extents_of_a_bucket_are_in_the_store_until_they_are_read(
    server: S3Server, overrides: list[str]
) -> None:
    server.put("raw/a.bin", TOKENS.tobytes())
    words = [*overrides, "data.path=s3://raw", f"data.store.endpoint_url={server.endpoint}"]
    before = explain("0", *words)
    assert "extent 0 in store" in before.stdout
    assert server.counts()["requests"]["get"] == 1  # the look for a lock
    config = compose(words)
    corpus = open_corpus(config.data, report=lambda words: None)
    corpus.train.read(np.array([0]))
    corpus.close()
    assert explain("0", *words).stdout == before.stdout.replace("in store", "in disk")


def test_a_mixture_names_the_source_of_a_position(overrides: list[str], tmp_path: Path) -> None:
    words = [
        *(word for word in overrides if not word.startswith("data.path")),
        f"data.mixture=[{{name:one,path:{tmp_path}/raw/a.bin,format:raw,weight:3}},"
        f"{{name:two,path:{tmp_path}/raw/b.bin,format:raw,weight:1}}]",
    ]
    done = explain("0:39", *words)
    assert done.exit_code == 0, done.output
    assert done.stdout.count(" of one; ") == 30
    for line in done.stdout.splitlines():
        source = re.search(r"sample \d+ of (one|two);", line)
        if source:
            file = {"one": "a.bin", "two": "b.bin"}[source[1]]
        else:
            assert f"/raw/{file} [" in line


@pytest.mark.parametrize("words", ["5:4", "five", "0:1000", "-1"])
def test_what_is_no_position_is_refused(words: str, overrides: list[str]) -> None:
    done = explain("--", words, *overrides)
    assert isinstance(done.exception, ConfigError)
    assert f"{words}: found no position" in str(done.exception)
