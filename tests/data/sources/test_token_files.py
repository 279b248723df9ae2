"""Token arrays with and without headers, manifests and end tokens; and damaged ones."""

import struct
from pathlib import Path

import numpy as np
import pytest

from keepstep.data import CorruptDataError, DataError, DataFormat
from keepstep.data.access import LocalAccess
from keepstep.data.dataset import Dataset
from keepstep.data.lock import lock
from keepstep.data.manifest import read_manifest
from keepstep.data.sources.open import open_records, open_tokens
from keepstep.data.store import LocalStore

FIXTURES = Path(__file__).parent.parent / "fixtures"


def rows_of(dataset: Dataset, width: int) -> np.ndarray:
    source = open_tokens(dataset, LocalAccess(dataset.objects))
    starts = np.arange(len(source) - width + 1)
    rows = source.gather(starts, width)
    return rows


def windows(tokens: np.ndarray, width: int) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(tokens.astype(np.int64), width)


def test_prepared_shards_are_read_by_split(prepared: Path) -> None:
    manifest = read_manifest(prepared)
    for split in ("train", "eval"):
        dataset = lock(str(prepared), LocalStore(), split=split)
        names = [shard.name for shard in manifest.splits[split].shards]
        tokens = np.concatenate([np.load(prepared / name) for name in names])
        assert dataset.format == DataFormat.tokens
        assert np.array_equal(rows_of(dataset, 9), windows(tokens, 9))
        assert dataset.facts["end_token"] == manifest.end_token
        assert set(dataset.digests) == set(names)


def test_documents_are_found_by_the_end_token_where_it_is_told(prepared: Path) -> None:
    manifest = read_manifest(prepared)
    end = manifest.end_token
    store = LocalStore()
    dataset = lock(str(prepared), store, end_token=end)
    found = open_tokens(dataset, LocalAccess(dataset.objects)).documents
    assert found is not None
    assert len(found) == manifest.splits["train"].documents
    # What was prepared here says itself where its documents begin; others' arrays do not.
    said = lock(str(prepared), store)
    assert np.array_equal(said.arrays["documents"], found)
    for sidecar in prepared.glob("*-documents.npy"):
        sidecar.unlink()
    arrays = lock(str(prepared), store, format=DataFormat.npy)
    assert open_tokens(arrays, LocalAccess(arrays.objects)).documents is None


@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2", "int64"])
def test_flat_arrays_are_one_run_of_tokens(dtype: str, tmp_path: Path) -> None:
    tokens = np.arange(100).astype(dtype)
    for number, part in enumerate(np.split(tokens, [13, 13, 70])):
        np.save(tmp_path / f"{number}.npy", part)
    dataset = lock(str(tmp_path), LocalStore(), end_token=12)
    assert dataset.format == DataFormat.npy
    assert dataset.arrays["documents"].tolist() == [0, 13]
    assert np.array_equal(rows_of(dataset, 60), windows(tokens, 60))


@pytest.mark.parametrize("piece", [3, 64])
def test_arrays_without_a_header_need_a_dtype(
    piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keepstep.data.sources import pieces

    monkeypatch.setattr(pieces.pieces, "__defaults__", (piece,))
    tokens = np.arange(50, dtype="<u4") % 9
    (tmp_path / "a.npy").write_bytes(tokens[:20].tobytes())
    (tmp_path / "b.npy").write_bytes(tokens[20:].tobytes())
    with pytest.raises(
        DataError, match=r"arrays without a header and the dtype None, needed one of"
    ):
        lock(str(tmp_path), LocalStore())
    dataset = lock(str(tmp_path), LocalStore(), dtype="uint32", end_token=8)
    assert np.array_equal(rows_of(dataset, 33), windows(tokens, 33))
    assert dataset.arrays["documents"].tolist() == [0, 9, 18, 27, 36, 45]
    (tmp_path / "b.npy").write_bytes(b"12345")
    with pytest.raises(CorruptDataError, match="found 5 bytes, needed whole uint32 tokens"):
        lock(str(tmp_path), LocalStore(), dtype="uint32")


@pytest.mark.parametrize(
    ("array", "error", "said"),
    [
        (np.zeros((2, 2), np.uint16), DataError, r"found type '<u2' of shape \(2, 2\)"),
        (np.zeros(2, np.float32), DataError, "found type '<f4'"),
        (np.array([{}], dtype=object), DataError, "found type '\\|O'"),
    ],
)
def test_arrays_of_something_else_are_refused(
    array: np.ndarray, error: type[Exception], said: str, tmp_path: Path
) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(error, match=said):
        lock(str(tmp_path), LocalStore())


def test_a_cut_array_or_header_is_corrupt(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(10, dtype=np.uint16))
    whole = (tmp_path / "a.npy").read_bytes()
    for content in (whole[:-1], whole[:50], whole[:8], whole[:20] + b"x" + whole[21:]):
        (tmp_path / "a.npy").write_bytes(content)
        with pytest.raises(CorruptDataError, match=r"a\.npy: found"):
            lock(str(tmp_path), LocalStore())


def test_tokens_beyond_the_end_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(10, dtype=np.uint16))
    dataset = lock(str(tmp_path), LocalStore())
    source = open_tokens(dataset, LocalAccess(dataset.objects))
    with pytest.raises(ValueError, match="starts: found 8 to 8, needed 0 to 7, 3 tokens before"):
        source.gather(np.array([8]), 3)
    with pytest.raises(DataError, match="found a dataset of npy, needed records"):
        open_records(dataset, LocalAccess(dataset.objects))


@pytest.mark.parametrize("name", ["part0_text_document", "part0_text_document.idx"])
def test_a_pair_of_megatron_goes_by_either_file_or_their_prefix(name: str) -> None:
    dataset = lock(str(FIXTURES / "megatron" / "many" / name), LocalStore())
    assert len(dataset.objects) == 1
    assert rows_of(dataset, 1)[0, 0] == 70001


def megatron(folder: Path, content: bytes, tokens: int = 3) -> None:
    (folder / "a.idx").write_bytes(content)
    (folder / "a.bin").write_bytes(b"\0" * 2 * tokens)


def index(lengths: list[int], pointers: list[int], documents: list[int], *, code: int = 8) -> bytes:
    head = struct.pack("<9sQBQQ", b"MMIDIDX\0\0", 1, code, len(lengths), len(documents))
    arrays = (np.array(lengths, "<i4"), np.array(pointers, "<i8"), np.array(documents, "<i8"))
    return head + b"".join(array.tobytes() for array in arrays)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"MMIDIDX", "found 7 bytes, needed a header of 34"),
        (b"x" + index([3], [0], [0, 1])[1:], "of version 1, needed b'MMIDIDX"),
        (index([3], [0], [0, 1])[:-1], "needed 1 sequences and 2 documents"),
        (index([1, 2], [0, 4], [0, 2]), "pointers that differ from the lengths"),
        (index([-1, 4], [0, -2], [0, 2]), "pointers that differ from the lengths"),
        (index([1, 2], [0, 2], [0, 3]), "documents out of order"),
        (index([1, 2], [0, 2], []), "documents out of order"),
        (index([1, 5], [0, 2], [0, 2]), r"a\.bin: found 6 bytes, needed 6 tokens of 2 bytes"),
    ],
)
def test_a_damaged_index_of_megatron_is_corrupt(content: bytes, said: str, tmp_path: Path) -> None:
    megatron(tmp_path, content)
    with pytest.raises(CorruptDataError, match=said):
        lock(str(tmp_path), LocalStore())


def test_megatron_of_floats_or_without_its_tokens_is_refused(tmp_path: Path) -> None:
    megatron(tmp_path, index([3], [0], [0, 1], code=7))
    with pytest.raises(DataError, match="found tokens of the type 7, needed one of"):
        lock(str(tmp_path), LocalStore())
    (tmp_path / "a.bin").unlink()
    with pytest.raises(CorruptDataError, match=r"a\.bin: found no such object, needed it by a"):
        lock(str(tmp_path), LocalStore())
