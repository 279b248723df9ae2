"""Token shards: samples are cut from the shards put end to end, and damage is named."""

from pathlib import Path

import numpy as np
import pytest
from support.shards import open_shards

from keepstep.data import CorruptDataError, DataError
from keepstep.data.access import LocalAccess
from keepstep.data.lock import lock
from keepstep.data.manifest import read_manifest
from keepstep.data.packing import Chunks
from keepstep.data.prepare.shards import write_array
from keepstep.data.sources.open import open_tokens
from keepstep.data.store import LocalStore


def concatenated(folder: Path, split: str) -> np.ndarray:
    shards = read_manifest(folder).splits[split].shards
    return np.concatenate([np.load(folder / shard.name) for shard in shards])


@pytest.mark.parametrize("split", ["train", "eval"])
@pytest.mark.parametrize("length", [1, 7, 16])
def test_sample_k_is_tokens_kT_to_kT_plus_T(prepared: Path, split: str, length: int) -> None:
    source = open_shards(prepared, split=split, sequence_length=length)
    tokens = concatenated(prepared, split)
    rows = source.read(np.arange(len(source)))["tokens"].numpy()
    assert len(source) == (len(tokens) - 1) // length
    assert (rows[:, :-1].reshape(-1) == tokens[: len(source) * length]).all()
    assert (rows[:-1, -1] == rows[1:, 0]).all()


def test_samples_cross_shard_ends_unharmed(tmp_path: Path) -> None:
    pieces = np.split(np.arange(53, dtype=np.uint16), range(5, 53, 5))
    for place, piece in enumerate(pieces):
        write_array(tmp_path / f"{place:02d}.npy", [piece], len(piece), "uint16")
    dataset = lock(str(tmp_path), LocalStore())
    assert dataset.counts.tolist() == [5] * 10 + [3]
    source = Chunks(open_tokens(dataset, LocalAccess(dataset.objects)), 13)
    assert source.read(np.array([3, 0]))["tokens"].tolist() == [
        list(range(39, 53)),
        list(range(14)),
    ]


def test_too_few_tokens_for_a_sample_are_refused_with_the_longest_length(prepared: Path) -> None:
    held = len(concatenated(prepared, "eval"))
    said = f"data.sequence_length: found {held}, needed {held - 1} or less"
    with pytest.raises(DataError, match=said):
        open_shards(prepared, split="eval", sequence_length=held)
    assert len(open_shards(prepared, split="eval", sequence_length=held - 1)) == 1


def test_an_unknown_split_is_refused(prepared: Path) -> None:
    with pytest.raises(DataError, match="found splits train, eval, needed 'test'"):
        open_shards(prepared, split="test", sequence_length=4)


def test_a_missing_and_a_short_shard_are_named(prepared: Path) -> None:
    shard = prepared / "train-00000.npy"
    content = shard.read_bytes()
    shard.write_bytes(content[:-2])
    with pytest.raises(CorruptDataError, match=f"{len(content) - 2} bytes, needed {len(content)}"):
        open_shards(prepared, sequence_length=4)
    shard.unlink()
    with pytest.raises(CorruptDataError, match=r"train-00000.npy: found no such object"):
        open_shards(prepared, sequence_length=4)


@pytest.mark.parametrize(("old", "new"), [(b"\x93NUMPY", b"\x93NUMPX"), (b"<u2", b"<i2")])
def test_a_damaged_header_is_named(prepared: Path, old: bytes, new: bytes) -> None:
    shard = prepared / "train-00000.npy"
    shard.write_bytes(shard.read_bytes().replace(old, new, 1))
    with pytest.raises(CorruptDataError, match=": found ") as caught:
        open_shards(prepared, sequence_length=4)
    assert str(shard).startswith(str(caught.value.path))
