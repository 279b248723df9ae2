"""Packing keeps every token, wastes nearly none, says what belongs together, is compiled once."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keepstep.data import DataError
from keepstep.data.access import LocalAccess
from keepstep.data.packing import Chunks, Fitted, compile_packing
from keepstep.data.packing.fit import best_fit, cut_long
from keepstep.data.sources.source import Ids, Times

END = 1


class Letters:
    """Documents of random length; token i of document d is 10 d + i (and END ends it)."""

    digest = "letters"
    dtype = np.dtype(np.uint16)

    def __init__(self, lengths: list[int], *, says_documents: bool) -> None:
        parts = [
            np.append(np.arange(length - 1) % 7 + 10 * (d + 1), END)
            for d, length in enumerate(lengths)
        ]
        self.all = np.concatenate(parts)
        self.starts = np.cumsum([0, *lengths[:-1]], dtype=np.int64)
        self.documents: Ids | None = self.starts if says_documents else None
        self.wanted: list[tuple[int, int]] = []
        self.access = LocalAccess([])

    def __len__(self) -> int:
        return len(self.all)

    def gather(self, starts: Ids, width: int) -> npt.NDArray[np.uint16]:
        return np.array([self.all[start : start + width] for start in starts.tolist()])

    def want(self, starts: Ids, width: int, due: Times) -> None:
        self.wanted += [(start, width) for start in starts.tolist()]


LENGTHS = np.random.default_rng(0).integers(2, 40, 300).tolist()


@pytest.mark.parametrize("says_documents", [True, False])
def test_chunks_number_their_documents_and_count_positions_anew(says_documents: bool) -> None:
    tokens = Letters(LENGTHS, says_documents=says_documents)
    chunks = Chunks(tokens, 16, isolate=True, end_token=None if says_documents else END)
    batch = {k: v.numpy() for k, v in chunks.read(np.arange(len(chunks))).items()}
    for sample in range(len(chunks)):
        place, number = 0, 0
        for at in range(16):
            if at and 16 * sample + at in tokens.starts:
                place, number = 0, number + 1
            assert batch["documents"][sample, at] == number
            assert batch["positions"][sample, at] == place
            place += 1
    assert (batch["tokens"][:, :-1].reshape(-1) == tokens.all[: 16 * len(chunks)]).all()


def test_chunks_that_are_not_isolated_hold_tokens_alone() -> None:
    chunks = Chunks(Letters(LENGTHS, says_documents=False), 16)
    assert set(chunks.read(np.arange(2))) == {"tokens"}
    assert chunks.sample_bytes == 32


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(1, 90), min_size=1, max_size=60), capacity=st.integers(2, 33))
def test_pieces_cover_every_target_once_and_bins_never_overflow(
    lengths: list[int], capacity: int
) -> None:
    sizes = np.array(lengths, dtype=np.int64)
    starts = np.cumsum([0, *lengths[:-1]], dtype=np.int64)
    at, sizes_cut = cut_long(starts, sizes, capacity)
    targets = np.concatenate(
        [np.arange(a + 1, a + n) for a, n in zip(at, sizes_cut, strict=True)] or [[]]
    )
    wanted = np.setdiff1d(np.arange(sum(lengths)), starts)
    assert (np.sort(targets) == wanted).all()
    bins = best_fit(sizes_cut, capacity)
    assert sorted(piece for one in bins for piece in one) == list(range(len(at)))
    assert all(sizes_cut[one].sum() <= capacity for one in bins)


def test_fitted_sequences_hold_every_target_once_and_are_full(tmp_path: Path) -> None:
    lengths = np.random.default_rng(1).integers(2, 60, 4000).tolist()
    tokens = Letters(lengths, says_documents=False)
    folder = compile_packing(tokens, 64, folder=tmp_path, end_token=END)
    source = Fitted(tokens, 64, folder)
    batch = {k: v.numpy() for k, v in source.read(np.arange(len(source))).items()}
    assert (batch["targets"] != -100).sum() == sum(lengths) - len(lengths)
    assert sum(lengths) / (len(source) * 65) >= 0.995
    row, documents = batch["tokens"][3], batch["documents"][3]
    same = documents[1:] == documents[:-1]
    assert (batch["targets"][3][:-1][same] == row[1:-1][same]).all()
    assert (batch["targets"][3][:-1][~same] == -100).all()
    firsts = np.flatnonzero(np.append(True, ~same))
    assert (batch["positions"][3][firsts] == 0).all()


def test_a_packing_is_compiled_once_and_a_killed_one_goes_on(tmp_path: Path) -> None:
    tokens, words = Letters(LENGTHS, says_documents=True), []
    first = compile_packing(tokens, 32, folder=tmp_path, report=words.append)
    whole = {p.name: p.read_bytes() for p in first.iterdir()}
    assert words == ["packed 300 of 300 documents"]
    assert compile_packing(tokens, 32, folder=tmp_path, report=words.append) == first
    assert len(words) == 1
    (first / "packing.json").unlink()
    window = first / "window-000000.safetensors"
    window.write_bytes(window.read_bytes()[:100])
    compile_packing(tokens, 32, folder=tmp_path)
    assert {p.name: p.read_bytes() for p in first.iterdir()} == whole
    assert compile_packing(tokens, 31, folder=tmp_path) != first


def test_fitted_samples_are_announced_piece_by_piece(tmp_path: Path) -> None:
    tokens = Letters(LENGTHS, says_documents=True)
    source = Fitted(tokens, 64, compile_packing(tokens, 64, folder=tmp_path))
    source.want(np.array([0]), np.array([1.0]))
    row = source.read(np.array([0]))["tokens"][0].numpy()
    announced = [tokens.all[start : start + width] for start, width in tokens.wanted]
    assert (np.concatenate(announced) == row[row > 0]).all()


def test_documents_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    tokens = Letters(LENGTHS, says_documents=False)
    with pytest.raises(DataError, match=r"set data\.end_token"):
        Chunks(tokens, 16, isolate=True)
    with pytest.raises(DataError, match=r"set data\.end_token"):
        compile_packing(tokens, 16, folder=tmp_path)
    with pytest.raises(DataError, match="found 9000000, needed"):
        Chunks(tokens, 9_000_000)
