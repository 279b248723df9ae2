"""Preparing happens once, appears whole or not at all, and refuses what it cannot use."""

import errno
import gzip
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest

from keepstep.data import (
    DataConfig,
    DataError,
    DataFormat,
    Tokenizer,
    open_prepared,
    prepare,
    verify,
)
from keepstep.data.cache import CacheConfig
from keepstep.data.manifest import Manifest, read_manifest

Configure = Callable[..., DataConfig]


def silent(line: str) -> None:
    """Takes a progress line and says nothing."""


def texts(folder: Path, split: str) -> list[str]:
    """The documents that a split's shards decode to."""
    info = open_prepared(folder)
    shards = read_manifest(folder).splits[split].shards
    tokens = np.concatenate([np.load(folder / shard.name) for shard in shards])
    ends = np.flatnonzero(tokens == info.end_token)
    tokenizer = Tokenizer.load(info.tokenizer_path)
    return [tokenizer.decode(part) for part in np.split(tokens, ends + 1)[:-1]]


def in_a_fork(body: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            body()
            status = 0
        finally:
            os._exit(status)
    return pid


def status_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_the_shards_reassemble_to_the_text(prepared: Path, corpus: Path) -> None:
    end = "<|endoftext|>"
    found = [*texts(prepared, "train"), *texts(prepared, "eval")]
    assert all(text.endswith(end) for text in found)
    assert sorted(text.removesuffix(end) for text in found) == sorted(
        path.read_text() for path in corpus.iterdir()
    )


def test_a_second_run_finds_the_folder_and_writes_nothing(configure: Configure) -> None:
    lines: list[str] = []
    folder = prepare(configure(), report=lines.append)
    before = {path.name: path.stat().st_mtime_ns for path in folder.parent.rglob("*")}
    assert lines[-1].startswith("prepared tables in ")
    lines.clear()
    assert prepare(configure(), report=lines.append) == folder
    assert {path.name: path.stat().st_mtime_ns for path in folder.parent.rglob("*")} == before
    assert lines == []


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"vocabulary_size": 301}, {"eval_fraction": 0.3}, {"name": "other"}]
)
def test_other_settings_have_a_folder_of_their_own(
    configure: Configure, prepared: Path, change: dict[str, object]
) -> None:
    assert prepare(configure(**change), report=silent) != prepared
    assert verify(prepared) == []


def test_settings_of_the_order_share_the_folder(configure: Configure, prepared: Path) -> None:
    assert prepare(configure(sequence_length=3, lanes=2, block=5), report=silent) == prepared


def test_changed_text_is_prepared_anew(configure: Configure, tmp_path: Path) -> None:
    text = tmp_path / "book.txt"
    text.write_text("one line\n" * 500)
    first = prepare(configure(path=str(text)), report=silent)
    text.write_text("one line\n" * 501)
    assert prepare(configure(path=str(text)), report=silent) != first


def test_the_same_text_gives_the_same_bytes(configure: Configure, tmp_path: Path) -> None:
    folders = [
        prepare(configure(cache=CacheConfig(folder=str(tmp_path / name))), report=silent)
        for name in ("a", "b")
    ]
    files = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]
    assert files[0] == files[1]


def test_a_single_file_is_cut_so_that_a_split_exists(configure: Configure, tmp_path: Path) -> None:
    text = "".join(f"verse {number}\n" for number in range(3000))
    (tmp_path / "book.txt").write_text(text)
    info = open_prepared(prepare(configure(path=str(tmp_path / "book.txt")), report=silent))
    assert info.documents["train"] + info.documents["eval"] >= 20
    assert min(info.documents.values()) >= 1


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet", "memory", "file", "glob"])
def test_every_kind_of_input_gives_the_same_number_of_documents(
    configure: Configure, corpus: Path, tmp_path: Path, kind: str
) -> None:
    found = [path.read_text() for path in sorted(corpus.iterdir())]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in found).encode()
    path = str(tmp_path / f"corpus.{kind}")
    if kind == "parquet":
        parquet.write_table(arrow.table({"text": found}), path)
    elif kind == "memory":
        path = "memory://tables.jsonl"
        fsspec.filesystem("memory").pipe("/tables.jsonl", lines)
    elif kind in ("file", "glob"):
        path = f"file://{corpus}" if kind == "file" else f"{corpus}/*.txt"
    else:
        Path(path).write_bytes(gzip.compress(lines) if kind.endswith("gz") else lines)
    info = open_prepared(prepare(configure(path=path), report=silent))
    assert sum(info.documents.values()) == len(found)


def test_a_process_killed_half_way_leaves_nothing_taken_for_done(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        os._exit(9)

    def body() -> None:
        monkeypatch.setattr(Manifest, "to_json", die)
        prepare(configure(), report=silent)

    assert status_of(in_a_fork(body)) == 9
    left = [path.name for path in (tmp_path / "cache").iterdir()]
    assert any(name.endswith(".work") for name in left)
    assert all(name.startswith(".") for name in left)
    folder = prepare(configure(), report=silent)
    assert verify(folder) == []
    assert not list(folder.parent.glob(".*.work"))


def test_two_processes_at_once_prepare_once(configure: Configure, tmp_path: Path) -> None:
    reports = [tmp_path / "first", tmp_path / "second"]

    def body(report: Path) -> None:
        def write(line: str) -> None:
            with report.open("a") as stream:
                stream.write(line + "\n")
            # Long enough for the other to come to the lock meanwhile.
            time.sleep(0.2)

        assert verify(prepare(configure(), report=write)) == []

    ranks = [in_a_fork(lambda report=report: body(report)) for report in reports]  # type: ignore[misc]
    assert [status_of(pid) for pid in ranks] == [0, 0]
    lines = "".join(report.read_text() for report in reports)
    assert lines.count("prepared tables in") == 1
    assert lines.count("another process prepares tables-") == 1


def test_waiting_for_another_process_has_an_end(configure: Configure) -> None:
    def hold() -> None:
        prepare(configure(), report=lambda line: time.sleep(60))

    pid = in_a_fork(hold)
    try:
        cache = Path(str(configure().cache.folder))
        deadline = time.monotonic() + 30
        while not list(cache.glob(".*.work")) and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(TimeoutError):
            prepare(configure(), report=silent, lock_seconds=0.05)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


@pytest.mark.parametrize("name", ["train-00000.npy", "manifest.json"])
def test_a_damaged_folder_of_the_cache_is_made_again(
    configure: Configure, prepared: Path, name: str
) -> None:
    (prepared / name).write_bytes(b"short")
    lines: list[str] = []
    assert prepare(configure(), report=lines.append) == prepared
    assert name in lines[0]
    assert lines[0].endswith("preparing it again")
    assert verify(prepared) == []


def test_prepared_tokens_are_taken_as_they_are(configure: Configure, prepared: Path) -> None:
    for options in ({}, {"format": DataFormat.tokens}):
        config = DataConfig(
            name="mine", path=str(prepared), cache=CacheConfig(folder="/nowhere"), **options
        )
        assert prepare(config, report=silent) == prepared


def test_a_given_tokenizer_is_used(configure: Configure, prepared: Path) -> None:
    path = prepared / "tokenizer.json"
    folder = prepare(configure(tokenizer=str(path), vocabulary_size=9999), report=silent)
    assert (folder / "tokenizer.json").read_text() == path.read_text()
    assert open_prepared(folder).vocabulary_size == 300


def test_out_is_written_in_place_of_the_cache(configure: Configure, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for out in (tmp_path / "new" / "folder", tmp_path / "out"):
        assert prepare(configure(), out=out, report=silent) == out
        assert verify(out) == []
    assert not (tmp_path / "cache").exists()


def test_out_never_writes_over_anything(configure: Configure, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    for out in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(DataError, match=f"found {out} in use, needed a new or empty folder"):
            prepare(configure(), out=out, report=silent)
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("content", "said"),
    [("", "found 0 documents with text in 1 files"), ("tiny", "found 1 documents with text in 1")],
)
def test_too_little_text_is_refused_and_leaves_nothing(
    configure: Configure, tmp_path: Path, content: str, said: str
) -> None:
    (tmp_path / "a.txt").write_text(content)
    with pytest.raises(DataError, match=said):
        prepare(configure(path=str(tmp_path / "a.txt")), report=silent)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def test_a_full_disk_is_one_sentence_and_what_is_done_stays_hidden(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"data.cache.folder: found .*\(No space left on device\)"):
        prepare(configure(), report=silent)
    assert all(path.name.startswith(".") for path in (tmp_path / "cache").iterdir())
    monkeypatch.undo()
    assert verify(prepare(configure(), report=silent)) == []


def test_tokens_without_a_folder_of_tokens_are_refused(configure: Configure) -> None:
    with pytest.raises(DataError, match=r"found tokens without data.path"):
        prepare(configure(path=None, name="stdlib", format=DataFormat.tokens), report=silent)
    with pytest.raises(DataError, match=r"found no manifest.json in"):
        prepare(configure(format=DataFormat.tokens), report=silent)


def test_prepared_tokens_are_not_prepared_again(
    configure: Configure, prepared: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=f"found prepared tokens in {prepared}, needed text"):
        prepare(configure(path=str(prepared)), out=tmp_path / "out", report=silent)


def test_text_that_changes_while_it_is_read_is_refused(
    configure: Configure, tmp_path: Path
) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.txt").write_text(f"text {number}")

    def empty_one(line: str) -> None:
        (folder / "3.txt").write_text("")

    with pytest.raises(DataError, match=r"found 3.txt changed since it was first read"):
        prepare(configure(path=str(folder)), report=empty_one)


@pytest.mark.slow
def test_shakespeare_is_prepared_in_full(tmp_path: Path) -> None:
    config = DataConfig(
        name="shakespeare", vocabulary_size=600, cache=CacheConfig(folder=str(tmp_path))
    )
    info = open_prepared(prepare(config, report=silent))
    assert sum(info.documents.values()) == 38
    assert 4.5 < info.unigram_entropy_nats < 6.4
    assert info.tokens["eval"] < info.tokens["train"]
