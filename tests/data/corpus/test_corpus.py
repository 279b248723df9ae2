"""A run's data from its settings: text, prepared tokens anywhere, others' tokens, mixtures."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather
from support.s3.faults import Faults
from support.s3_server import S3Server, s3_server

from keepstep.data import (
    Corpus,
    DataConfig,
    DataError,
    DataFormat,
    Loader,
    Source,
    open_corpus,
    order_of,
    prepare,
)
from keepstep.data.cache import CacheConfig
from keepstep.data.config import MixtureSource, Packing, WeightChange
from keepstep.data.lock import lock, with_digests
from keepstep.data.lockfile import write_lock
from keepstep.data.store import LocalStore, StoreConfig

Open = Callable[..., Corpus]
LENGTH = 16


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with s3_server(Faults()) as one:
        yield one


@pytest.fixture
def opened(tmp_path: Path, corpus: Path) -> Iterator[Open]:
    """Opens data by settings; by default the text of the tests. Closed at the end."""
    corpora = []

    def one(**settings: object) -> Corpus:
        defaults = {"name": "words", "path": str(corpus), "vocabulary_size": 300}
        folder = CacheConfig(folder=str(tmp_path / "cache"), free_bytes=0)
        config = DataConfig(
            **{**defaults, "sequence_length": LENGTH, "cache": folder, **settings}  # type: ignore[arg-type]
        )
        corpora.append(open_corpus(config, report=lambda words: None))
        return corpora[-1]

    yield one
    for one_corpus in corpora:
        one_corpus.close()
        one_corpus.close()


def rows(source: Source) -> np.ndarray:
    return source.read(np.arange(len(source), dtype=np.int64))["tokens"].numpy()


def upload(server: S3Server, folder: Path, bucket: str) -> str:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            server.put(f"{bucket}/{path.relative_to(folder)}", path.read_bytes())
    return f"s3://{bucket}"


def test_a_bucket_gives_the_samples_and_the_order_of_the_local_folder(
    opened: Open, server: S3Server, tmp_path: Path
) -> None:
    local = opened()
    folder = next((tmp_path / "cache").glob("words-*"))
    url = upload(server, folder, "copy")
    store = StoreConfig(endpoint_url=server.endpoint)
    remote = opened(path=url, store=store)
    assert (rows(remote.train) == rows(local.train)).all()
    assert remote.held_out is not None
    assert local.held_out is not None
    assert (rows(remote.held_out) == rows(local.held_out)).all()
    assert remote.train.digest == local.train.digest
    facts = ("vocabulary_size", "end_token", "unigram_entropy_nats", "name")
    assert [getattr(remote, x) for x in facts] == [getattr(local, x) for x in facts]
    config = DataConfig(name="words", path="x")
    assert order_of(remote.train, config).recipe == order_of(local.train, config).recipe


def test_others_tokens_are_trained_on_where_they_lie(opened: Open, tmp_path: Path) -> None:
    tokens = np.random.default_rng(0).integers(0, 500, 5000).astype(np.uint16)
    (tmp_path / "raw").mkdir()
    tokens[:3000].tofile(tmp_path / "raw" / "a.bin")
    tokens[3000:].tofile(tmp_path / "raw" / "b.bin")
    found = opened(
        path=str(tmp_path / "raw"),
        format=DataFormat.raw,
        token_dtype="uint16",
        vocabulary_size=500,
        eval_fraction=0.1,
    )
    assert found.held_out is not None
    both = np.concatenate([rows(found.train), rows(found.held_out)])
    assert (both[:, :-1].reshape(-1) == tokens[: len(both) * LENGTH]).all()
    assert len(found.held_out) == 31
    assert (found.vocabulary_size, found.tokenizer, found.end_token) == (500, None, None)


def test_records_with_a_column_of_tokens_are_rows(opened: Open, tmp_path: Path) -> None:
    tokens = np.arange(400, dtype=np.uint16).reshape(20, 20)
    (tmp_path / "rows").mkdir()
    table = pa.table({"ids": pa.array(list(tokens)), "note": ["x"] * 20})
    feather.write_feather(table, tmp_path / "rows" / "a.arrow")
    found = opened(path=str(tmp_path / "rows"), token_field="ids", vocabulary_size=400)
    assert (rows(found.train) == tokens[: len(found.train), : LENGTH + 1]).all()
    with pytest.raises(DataError, match=r"found str in 'note'.*set data\.token_field"):
        rows(opened(path=str(tmp_path / "rows"), token_field="note").train)


def test_a_mixture_shows_each_source_in_its_share(
    opened: Open, corpus: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(corpus, other)
    (other / "more.txt").write_text("entirely different words, again and again. " * 200)
    mixed = opened(
        path=None,
        mixture=[
            MixtureSource(name="words", path=str(corpus), weight=3),
            MixtureSource(name="more", path=str(other), weight=1),
        ],
        mixture_changes=[WeightChange(samples=128, weights=[0, 1])],
    )
    config = DataConfig(name="words", path="x", mixture=[MixtureSource(name="a", path="x")])
    order = order_of(mixed.train, config)
    first = len(opened(path=str(corpus)).train)
    _, ids = order.samples(np.arange(384, dtype=np.int64))
    assert (ids[:128] < first).sum() == 96
    assert (ids[128:] >= first).all()
    loader = Loader(mixed.train, order, batch_samples=32, microbatch_samples=16)
    with loader.open(96) as windows:
        batch = next(windows).batches[0]["tokens"]
    assert (batch.numpy() == rows(mixed.train)[order.batch(96, 32)[:16]]).all()
    assert mixed.name == "words+more"


def test_packed_samples_say_where_their_documents_are(opened: Open) -> None:
    fitted = opened(packing=Packing.fitted).train.read(np.arange(20, dtype=np.int64))
    assert set(fitted) == {"tokens", "documents", "positions", "targets"}
    found = opened(packing=Packing.isolated)
    batch = found.train.read(np.arange(20, dtype=np.int64))
    tokens, documents = batch["tokens"].numpy(), batch["documents"].numpy()
    assert documents.shape == (20, LENGTH)
    ends = tokens[:, : LENGTH - 1] == found.end_token
    assert ((np.diff(documents, axis=1) == 1) >= ends).all()


def test_a_lock_tells_all_that_listing_would(
    opened: Open, server: S3Server, tmp_path: Path
) -> None:
    tokens = np.arange(40_000, dtype=np.uint16)
    folder = tmp_path / "npy"
    folder.mkdir()
    np.save(folder / "a.npy", tokens)
    dataset = with_digests(lock(str(folder), LocalStore()), LocalStore())
    write_lock(dataset, folder / "keepstep.lock")
    url = upload(server, folder, "locked")
    server.counts(reset=True)
    settings = {"store": StoreConfig(endpoint_url=server.endpoint), "vocabulary_size": 40_000}
    found = opened(path=f"{url}/keepstep.lock", **settings)
    assert (rows(found.train)[:, :-1].reshape(-1) == tokens[: len(found.train) * LENGTH]).all()
    assert "list" not in server.counts()["requests"]


def test_what_is_not_there_or_needs_more_settings_is_said_in_a_sentence(
    opened: Open, server: S3Server, tmp_path: Path
) -> None:
    store = StoreConfig(endpoint_url=server.endpoint)
    with pytest.raises(DataError, match=r"data\.path"):
        opened(path="s3://nowhere/at/all", store=store, format=DataFormat.npy)
    (tmp_path / "raw").mkdir()
    np.arange(100, dtype=np.uint16).tofile(tmp_path / "raw" / "a.bin")
    with pytest.raises(DataError, match="dtype"):
        opened(path=str(tmp_path / "raw"), format=DataFormat.raw)


def test_text_of_a_mixture_is_prepared_with_the_first_ones_tokenizer(
    opened: Open, corpus: Path, tmp_path: Path
) -> None:
    config = DataConfig(
        name="words",
        path=str(corpus),
        vocabulary_size=280,
        cache=CacheConfig(folder=str(tmp_path / "elsewhere")),
    )
    folder = prepare(config, report=lambda words: None)
    sources = [
        MixtureSource(name="ready", path=str(folder)),
        MixtureSource(name="text", path=str(corpus)),
    ]
    mixed = opened(path=None, mixture=sources)
    assert mixed.tokenizer is not None
    assert mixed.vocabulary_size == 280
