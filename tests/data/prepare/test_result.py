"""What lies beside the shards: counts that add up, first tokens, a card, locks that move along."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from keepstep.data import CorruptDataError, DataConfig, DataError, DataFormat, prepare, verify
from keepstep.data.access import LocalAccess
from keepstep.data.lock import lock
from keepstep.data.lockfile import read_lock, write_lock
from keepstep.data.manifest import Manifest, read_manifest
from keepstep.data.prepare import PrepareConfig
from keepstep.data.sources.open import open_tokens
from keepstep.data.sources.token_files.npy import survey_prepared
from keepstep.data.store import LocalStore

Configure = Callable[..., DataConfig]


def silent(line: str) -> None:
    """Takes a progress line and says nothing."""


def prepared_lines(folder: Path, lines: list[str | bytes], **changes: object) -> Manifest:
    """The manifest of what these lines of JSON, or texts, become."""
    content = [x if isinstance(x, bytes) else json.dumps({"text": x}).encode() for x in lines]
    (folder / "in.jsonl").write_bytes(b"\n".join(content))
    config = DataConfig(name="lines", path=str(folder / "in.jsonl"), vocabulary_size=300)
    settings = PrepareConfig(**changes)  # type: ignore[arg-type]
    return read_manifest(prepare(config, out=folder / "out", report=silent, settings=settings))


def test_counts_name_every_fate_once_and_add_up(tmp_path: Path) -> None:
    texts = ["one and one", "two and two", " ", "one and one", "#### ## #", "x", "one\r\n and"]
    manifest = prepared_lines(
        tmp_path,
        [*texts, b"{broken", "a third"],
        filters=["min_words=2", "max_symbol_word_ratio"],
        on_bad="skip",
    )
    counts = manifest.counts["documents"]
    assert {name: number for name, number in counts.items() if number} == {
        "read": 9,
        "empty": 1,
        "bad": 1,
        "exact_duplicates": 1,
        "min_words": 1,
        "max_symbol_word_ratio": 1,
        "kept": 4,
    }
    assert counts["read"] == sum(x for name, x in counts.items() if name != "read")
    assert counts["kept"] == sum(split.documents for split in manifest.splits.values())
    assert manifest.counts["characters"] == sum(
        map(len, ["one and one", "two and two", "one\n and", "a third"])
    )
    assert "in.jsonl, line 8: found '{broken" in manifest.counts["problems"][0]


def test_equal_texts_stay_where_nothing_is_deduplicated(tmp_path: Path) -> None:
    manifest = prepared_lines(tmp_path, ["same", "same", "other"], deduplicate="none")
    assert manifest.counts["documents"]["kept"] == 3


def test_of_equal_texts_the_first_is_kept(tmp_path: Path) -> None:
    prepared_lines(tmp_path, ["a b", "c d", "a b", "e f"])
    alone = tmp_path / "alone"
    alone.mkdir()
    prepared_lines(alone, ["a b", "c d", "", "e f"])
    for name in ("train-00000.npy", "eval-00000.npy"):
        assert (tmp_path / "out" / name).read_bytes() == (alone / "out" / name).read_bytes()


def test_a_bad_record_is_refused_unless_it_is_skipped_up_to_a_bound(tmp_path: Path) -> None:
    lines = ["a", b"[1]", "b", b'{"text": 3}', "c"]
    with pytest.raises(DataError, match=r"in.jsonl, line 2: found list, needed an object with a"):
        prepared_lines(tmp_path, lines)
    with pytest.raises(DataError, match=r"max_bad: found 2 bad records or more, needed 1 at most"):
        prepared_lines(tmp_path, lines, on_bad="skip", max_bad=1)
    assert prepared_lines(tmp_path, lines, on_bad="skip").counts["documents"]["bad"] == 2


def test_bad_records_of_several_parts_are_added_up(tmp_path: Path) -> None:
    lines = [*(["x" * 600, b"{"] * 4)]
    with pytest.raises(DataError, match=r"max_bad: found 4 bad records or more, needed 3 at most"):
        prepared_lines(tmp_path, lines, on_bad="skip", max_bad=3, part_bytes=1024)


def test_a_text_file_of_another_encoding_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_bytes(b"caf\xe9")
    config = DataConfig(name="x", path=str(tmp_path / "in"))
    with pytest.raises(DataError, match=r"a.txt: found bytes that are not UTF-8 \(byte 3\)"):
        prepare(config, out=tmp_path / "out", report=silent)


@pytest.mark.parametrize("split", ["train", "eval"])
def test_first_tokens_of_documents_are_those_behind_end_tokens(prepared: Path, split: str) -> None:
    manifest = read_manifest(prepared)
    shards = manifest.splits[split].shards
    tokens = np.concatenate([np.load(prepared / shard.name) for shard in shards])
    ends = np.flatnonzero(tokens == manifest.end_token)
    wanted = np.concatenate([[0], ends[:-1] + 1])
    assert np.load(prepared / f"{split}-documents.npy").tolist() == wanted.tolist()
    found = survey_prepared(LocalStore(), str(prepared), split=split)
    assert found.arrays["documents"].tolist() == wanted.tolist()
    scanned = survey_prepared(LocalStore(), str(prepared), split=split, end_token=ord("."))
    assert scanned.arrays["documents"].tolist() != wanted.tolist()


def test_damaged_first_tokens_are_found_by_their_digest(prepared: Path) -> None:
    path = prepared / "train-documents.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptDataError, match=r"train-documents.npy: found digest"):
        survey_prepared(LocalStore(), str(prepared))


def test_a_folder_of_an_older_release_is_still_surveyed(prepared: Path) -> None:
    manifest = read_manifest(prepared)
    for facts in manifest.splits.values():
        facts.starts = None
    manifest.card = None
    (prepared / "manifest.json").write_text(manifest.to_json())
    assert "documents" not in survey_prepared(LocalStore(), str(prepared)).arrays
    found = survey_prepared(LocalStore(), str(prepared), end_token=manifest.end_token)
    starts = np.load(prepared / "train-documents.npy")
    assert found.arrays["documents"].tolist() == starts.tolist()


@pytest.mark.parametrize("split", ["train", "eval"])
def test_a_lock_opens_a_copy_wherever_it_lies(prepared: Path, tmp_path: Path, split: str) -> None:
    copy = tmp_path / "elsewhere" / "copy"
    shutil.copytree(prepared, copy)
    shutil.rmtree(prepared)
    found = read_lock(copy / f"keepstep-{split}.lock")
    assert found.url == str(copy)
    surveyed = lock(str(copy), LocalStore(), format=DataFormat.tokens, split=split)
    assert found.digest == surveyed.digest
    tokens = open_tokens(found, LocalAccess(found.objects))
    row = tokens.gather(np.array([3]), 8)
    assert row[0].tolist() == np.load(copy / f"{split}-00000.npy")[3:11].tolist()
    assert tokens.documents is not None


def test_tags_of_the_place_that_was_locked_are_dropped_at_another(
    prepared: Path, tmp_path: Path
) -> None:
    surveyed = lock(str(prepared), LocalStore())
    assert all(obj.tag for obj in surveyed.objects)
    write_lock(surveyed, tmp_path / "x.lock")
    copy = shutil.copytree(prepared, tmp_path / "copy")
    same = read_lock(tmp_path / "x.lock", url=str(prepared))
    moved = read_lock(tmp_path / "x.lock", url=str(copy))
    assert [obj.tag for obj in same.objects] == [obj.tag for obj in surveyed.objects]
    assert not any(obj.tag for obj in moved.objects)
    assert moved.digest == surveyed.digest


def test_a_lock_of_other_shards_is_found(prepared: Path) -> None:
    shutil.copy(prepared / "keepstep-eval.lock", prepared / "keepstep-train.lock")
    (problem,) = verify(prepared)
    assert "keepstep-train.lock: found digests of other shards" in problem


def test_the_card_says_what_it_was_made_of(prepared: Path, tmp_path: Path) -> None:
    card = (prepared / "CARD.md").read_text()
    manifest = read_manifest(prepared)
    for words in (
        "# tables",
        "40 files",
        "| read | 40 |",
        "| kept | 40 |",
        f"| train | {manifest.splits['train'].documents} | {manifest.splits['train'].tokens} | 1 |",
        f"`{manifest.digest('train', 'eval')}`",
        f"{manifest.unigram_entropy_nats:.4f} nats",
        "| normalise | `standard` |",
        "keepstep train data.name=NAME data.path=THIS_FOLDER",
    ):
        assert words in card


def test_the_card_tells_what_was_left_out_and_that_a_lone_text_was_cut(tmp_path: Path) -> None:
    manifest = prepared_lines(tmp_path, ["line\n" * 400, b"{"], on_bad="skip")
    card = (tmp_path / "out" / "CARD.md").read_text()
    pieces = sum(split.documents for split in manifest.splits.values())
    assert "| dropped: bad | 1 |" in card
    assert f"was cut into {pieces} pieces" in card
    assert "## Left out as bad\n\n- " in card


def test_the_same_command_finds_its_result_and_another_is_refused(
    configure: Configure, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    prepare(configure(), out=out, report=silent)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert prepare(configure(), out=out, report=silent) == out
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    with pytest.raises(DataError, match=f"found {out} in use, needed a new or empty folder"):
        prepare(configure(seed=1), out=out, report=silent)


def test_work_of_other_settings_or_input_is_said_and_not_used(
    configure: Configure, corpus: Path, tmp_path: Path
) -> None:
    source, out = shutil.copytree(corpus, tmp_path / "source"), tmp_path / "out"
    (source / "bad.txt").write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"bad.txt: found bytes that are not UTF-8"):
        prepare(configure(path=str(source)), out=out, report=silent)
    (source / "bad.txt").write_bytes(b"good")
    lines: list[str] = []
    prepare(configure(path=str(source), seed=3), out=out, report=lines.append)
    assert "found work that was begun with other input or settings" in lines[0]
    assert "bytes " in lines[0]
    assert "seed 0 -> 3" in lines[0]
    assert verify(out) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"deduplicate": "some"}, "found 'some', needed one of none, exact, near"),
        ({"near_threshold": 1.0}, "near_threshold: found 1.0, needed a number between 0 and 1"),
        ({"workers": -1}, "workers: found -1, needed 0 or more"),
        ({"part_bytes": 10}, "part_bytes: found 10, needed 1024 or more"),
        ({"filters": ["gofer"]}, "filters: found 'gofer', needed one of gopher"),
    ],
)
def test_a_setting_that_is_none_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PrepareConfig(**change)  # type: ignore[arg-type]
