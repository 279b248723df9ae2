"""Lines are found once, wherever the pieces of a pass end, packed or not."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import zstandard

from keepstep.data import CorruptDataError, DataError
from keepstep.data.access import LocalAccess
from keepstep.data.lock import lock
from keepstep.data.sources import pieces
from keepstep.data.sources.open import open_records
from keepstep.data.sources.records.jsonl import line_offsets
from keepstep.data.store import LocalStore

ROWS = [{"n": n, "text": "x" * (n % 13), "u": "\u00e9"} for n in range(50)]
PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": lambda raw: gzip.compress(raw[:300]) + gzip.compress(raw[300:]) + b"\0" * 9,
    ".zst": lambda raw: zstandard.compress(raw[:300]) + zstandard.compress(raw[300:]),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def text(rows: list[dict[str, object]]) -> bytes:
    """Lines with blank ones before, between and after, and a last one without an end."""
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    return ("\n \n" + "\n\n".join(lines[:10]) + "\r\n" + "\n".join(lines[10:])).encode()


@pytest.mark.parametrize("suffix", PACK)
def test_records_are_the_lines_that_hold_something(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"a.jsonl{suffix}").write_bytes(PACK[suffix](text(ROWS[:30])))
    (tmp_path / f"b.jsonl{suffix}").write_bytes(PACK[suffix](b"\n"))
    (tmp_path / f"c.ndjson{suffix}").write_bytes(PACK[suffix](text(ROWS[30:]) + b"\n\n"))
    dataset = lock(str(tmp_path), LocalStore())
    records = open_records(dataset, LocalAccess(dataset.objects))
    ids = np.random.default_rng(0).permutation(50).astype(np.int64)
    assert records.records(ids) == [ROWS[n] for n in ids.tolist()]
    assert dataset.counts.tolist() == [30, 0, 20]
    assert records.records(np.empty(0, np.int64)) == []


@pytest.mark.parametrize("piece_bytes", [1, 2, 3, 7, 1000])
def test_lines_are_the_same_wherever_pieces_end(
    piece_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = text(ROWS[:20]) + b"\n  \n"
    (tmp_path / "a.jsonl").write_bytes(content)
    obj = LocalStore().stat(str(tmp_path / "a.jsonl"))
    monkeypatch.setattr(pieces.pieces, "__defaults__", (piece_bytes,))
    offsets = line_offsets(LocalStore(), obj)
    found = [json.loads(content[a:b]) for a, b in pairwise(offsets)]
    assert found == ROWS[:20]


def test_a_line_that_is_no_object_is_corrupt_and_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"x": 1}\n[1]\n{"x": \n' + b"[" * 100000)
    dataset = lock(str(tmp_path), LocalStore())
    records = open_records(dataset, LocalAccess(dataset.objects))
    assert records.records(np.array([0])) == [{"x": 1}]
    for bad in (1, 2, 3):
        with pytest.raises(CorruptDataError, match=rf"a\.jsonl, sample {bad}: found bytes that do"):
            records.records(np.array([bad]))


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".bz2", ".xz"])
def test_a_cut_packed_file_is_corrupt(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(PACK[suffix](text(ROWS))[:-20])
    with pytest.raises(CorruptDataError, match="bytes that do not unpack"):
        lock(str(path), LocalStore())


def test_an_id_beyond_the_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"x": 1}\n')
    dataset = lock(str(tmp_path), LocalStore())
    records = open_records(dataset, LocalAccess(dataset.objects))
    for bad in (1, -1):
        with pytest.raises(ValueError, match=rf"ids: found {bad} to {bad}, needed 0 to 0"):
            records.records(np.array([bad]))


def test_a_folder_without_lines_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"text")
    with pytest.raises(DataError, match="found no data of a known format, needed one format"):
        lock(str(tmp_path), LocalStore())
