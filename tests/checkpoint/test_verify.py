"""A whole-checkpoint check names every damaged file, without a model."""

from pathlib import Path

import pytest

from keepstep.checkpoint import Damage, LocalStore, verify


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
