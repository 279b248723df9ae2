"""Signed data is read, other is refused; bad samples of others' data end a run or are skipped."""

from pathlib import Path

import numpy as np
import pytest

from keepstep.data import (
    ChangedError,
    CorruptDataError,
    DataConfig,
    DataError,
    DataFormat,
    open_corpus,
)
from keepstep.data.access import QUICK, STRONG
from keepstep.data.cache import CacheConfig
from keepstep.data.lock import lock, with_digests
from keepstep.data.lockfile import write_lock
from keepstep.data.quarantine import OnBad
from keepstep.data.seal import make_keys, sign_lock
from keepstep.data.store import LocalStore


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Tokens of another tool, 600 of them out of the vocabulary of 1000, in a locked folder."""
    folder = tmp_path / "raw"
    folder.mkdir()
    tokens = (np.arange(20_000) % 1000).astype(np.uint16)
    tokens[5000:5600] = 1000
    np.save(folder / "a.npy", tokens)
    return folder


def configure(folder: Path, **settings: object) -> DataConfig:
    cache = CacheConfig(folder=str(folder.parent / "cache"))
    given = {"sequence_length": 50, "vocabulary_size": 1000, "cache": cache, **settings}
    return DataConfig(name="raw", path=str(folder), **given)  # type: ignore[arg-type]


def silent(words: str) -> None:
    """Takes a line."""


def test_ids_that_are_none_of_the_vocabulary_end_a_run(raw: Path) -> None:
    corpus = open_corpus(configure(raw), report=silent)
    assert len(corpus.train.read(np.arange(99, dtype=np.int64))["tokens"]) == 99
    with pytest.raises((DataError, CorruptDataError), match="tokens"):
        corpus.train.read(np.arange(99, 112, dtype=np.int64))
    corpus.close()


def test_or_are_skipped_and_said_with_others_in_their_place(raw: Path) -> None:
    said: list[str] = []
    settings = {"on_bad": OnBad.skip, "max_bad": 20.0}
    corpus = open_corpus(configure(raw, **settings), report=said.append)
    rows = corpus.train.read(np.arange(95, 115, dtype=np.int64))["tokens"].numpy()
    assert rows.max() < 1000
    assert len(corpus.skips[0]) == len(said) == 13
    again = open_corpus(configure(raw, **settings), report=said.append)
    again.skips[0].merge([corpus.skips[0].state_dict()])
    assert (again.train.read(np.arange(95, 115, dtype=np.int64))["tokens"].numpy() == rows).all()
    corpus.close()
    again.close()


def test_only_what_is_signed_and_unchanged_is_read_where_that_is_asked(raw: Path) -> None:
    public = make_keys(raw.parent / "key")
    asked = configure(raw, require_signed=str(public), format=DataFormat.npy)
    with pytest.raises(DataError, match="found no lock with digests, needed a signed one"):
        open_corpus(asked, report=silent)
    path = raw / "keepstep.lock"
    quick, strong = (
        with_digests(lock(str(raw), LocalStore()), LocalStore(), algorithm=algorithm)
        for algorithm in (QUICK, STRONG)
    )
    write_lock(quick, path)
    sign_lock(path, raw.parent / "key")
    with pytest.raises(DataError, match="found a lock whose digests can be forged"):
        open_corpus(asked, report=silent)
    (raw / "keepstep.lock.sig").unlink()
    write_lock(strong, path, replace=True)
    with pytest.raises(DataError, match="found no signature"):
        open_corpus(asked, report=silent)
    sign_lock(path, raw.parent / "key")
    open_corpus(asked, report=silent).close()
    other = make_keys(raw.parent / "other")
    with pytest.raises(DataError, match="signed by another key"):
        open_corpus(configure(raw, require_signed=str(other)), report=silent)
    tokens = np.load(raw / "a.npy")
    tokens[7] += 1
    np.save(raw / "a.npy", tokens)
    with pytest.raises((ChangedError, CorruptDataError), match=r"a\.npy"):
        open_corpus(asked, report=silent)
