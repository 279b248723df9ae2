"""A whole-checkpoint check names every damaged file, without a model."""

from pathlib import Path

import pytest
import torch

from keepstep.checkpoint import Damage, LocalStore, read_manifest, verify
from keepstep.checkpoint.pieces import PIECE_BYTES


@pytest.fixture
def saved(kit, solo):
    return Path(kit.save(solo(), kit.full_state(1), 1).path)


def test_a_whole_checkpoint_has_no_damage(saved, tmp_path):
    assert verify(LocalStore(tmp_path), saved.name) == []


def test_every_damaged_tensor_is_named(saved, tmp_path):
    file = saved / "rank-00000.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    data[9] ^= 1
    file.write_bytes(data)
    damages = verify(LocalStore(tmp_path), saved.name)
    assert [one.file for one in damages] == [file.name] * 2
    assert damages[0].reason == "its header does not match its digest"
    assert "(tensor plain.mask) do not match their digest" in damages[1].reason


def test_each_damaged_piece_is_named_by_its_bytes_and_its_tensor(solo, tmp_path):
    state = {"a": torch.randn(3 * 2**20), "b": torch.randn(10), "c": torch.randn(10)}
    saved = Path(solo().save(state, step=1, topology={}, progress={}, lineage={}).path)
    entries = read_manifest(LocalStore(tmp_path), saved.name).by_name
    (large,), (small,) = entries["a"], entries["c"]
    path = saved / large.file
    data = bytearray(path.read_bytes())
    for position in (large.start + PIECE_BYTES, large.end - 1, small.start):
        data[position] ^= 1
    path.write_bytes(data)
    spans = [
        (large.start + PIECE_BYTES, large.start + 2 * PIECE_BYTES, "a"),
        (large.start + 2 * PIECE_BYTES, large.end, "a"),
        (small.start, small.end, "c"),
    ]
    assert [one.reason for one in verify(LocalStore(tmp_path), saved.name)] == [
        f"bytes {start} to {end} (tensor {name}) do not match their digest"
        for start, end, name in spans
    ]


def test_a_missing_file_is_named_once(saved, tmp_path):
    (saved / "rank-00000.safetensors").unlink()
    assert verify(LocalStore(tmp_path), saved.name) == [
        Damage(path=str(saved), file="rank-00000.safetensors", reason="is missing")
    ]


def test_a_missing_manifest_is_named(saved, tmp_path):
    (saved / "manifest.json").unlink()
    (damage,) = verify(LocalStore(tmp_path), saved.name)
    assert damage.file == "manifest.json"
    assert "FileNotFoundError" in damage.reason


def test_a_check_tells_how_far_it_is(saved, tmp_path, kit):
    seen = []
    verify(LocalStore(tmp_path), saved.name, progress=lambda *counts: seen.append(counts))
    total = sum(tensor.nbytes for tensor in kit.full_state(1).values())
    assert seen[-1] == (total, total)
    assert seen == sorted(seen)
